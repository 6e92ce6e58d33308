#include <losa/allocate.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

namespace {

struct ByIndex {
  losa::SparsityNeeds needs{};
  std::vector<double> operator()(const losa::SparsityEvidence& evidence) const {
    return std::vector<double>(evidence.sizes.size(), evidence.target);
  }
};
struct NoNeeds {
  std::vector<double> operator()(const losa::SparsityEvidence&) const { return {}; }
};

static_assert(losa::SparsityAllocator<ByIndex>);
static_assert(!losa::SparsityAllocator<NoNeeds>);
static_assert(losa::SparsityAllocator<losa::UniformSparsity>);
static_assert(losa::SparsityAllocator<losa::RmiSparsity>);
static_assert(losa::SparsityAllocator<losa::WaterFill>);
static_assert(!losa::SparsityAllocator<losa::ErrorRank>);
static_assert(losa::RankAllocator<losa::UniformRank>);
static_assert(losa::RankAllocator<losa::ErrorRank>);
static_assert(losa::RankAllocator<losa::SpectralRank>);
static_assert(losa::Schedule<losa::OneShot> && losa::Schedule<losa::Linear> && losa::Schedule<losa::Cubic>);

/// Removed weights over all weights.
template <losa::SparsityAllocator A>
double overall(const A& allocator, const losa::SparsityEvidence& evidence) {
  const std::vector<double> s = allocator(evidence);
  double removed = 0;
  double weights = 0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    removed += s[i] * evidence.sizes[i];
    weights += evidence.sizes[i];
  }
  return removed / weights;
}

}  // namespace

TEST_CASE("every sparsity allocator meets the target over layers of unequal size") {
  const std::vector<double> sizes = {4, 2};
  const losa::RmiMatrix rmi{2, {1, 0.5, 0.5, 1}};
  std::vector<losa::ScoreCurve> curves(2);
  for (double q : {1.0, 2.0, 3.0, 4.0}) curves[0].add(q);
  for (double q : {1.5, 9.0}) curves[1].add(q);
  const losa::SparsityEvidence evidence{.target = 0.6, .sizes = sizes, .rmi = &rmi, .curves = curves};
  CHECK(overall(losa::UniformSparsity{}, evidence) == doctest::Approx(0.6).epsilon(1e-14));
  CHECK(overall(losa::RmiSparsity{.delta = 0.2}, evidence) == doctest::Approx(0.6).epsilon(1e-14));
  CHECK(overall(losa::WaterFill{}, evidence) == doctest::Approx(0.6).epsilon(1e-12));
  CHECK(overall(ByIndex{}, evidence) == doctest::Approx(0.6).epsilon(1e-14));
}
