#include <losa/allocate/schedule.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

template <class S>
void check_laws(const S& schedule) {
  for (double final : {0.0, 0.1, 0.5, 0.6, 0.7, 0.999999, 0.3333333333333333})
    for (std::size_t steps = 1; steps <= 12; ++steps) {
      double last = 0;
      for (std::size_t t = 1; t <= steps; ++t) {
        const double now = losa::scheduled_sparsity(schedule, t, steps, final);
        CHECK(now >= last);
        CHECK(now <= final);
        last = now;
      }
      CHECK(std::bit_cast<std::uint64_t>(last) == std::bit_cast<std::uint64_t>(final));
      CHECK(std::bit_cast<std::uint64_t>(static_cast<double>(schedule(steps, steps, final))) ==
            std::bit_cast<std::uint64_t>(final));
    }
}

/// A user's schedule that overshoots.
struct Eager {
  double operator()(std::size_t, std::size_t, double final) const { return final * 1.5; }
};

}  // namespace

TEST_CASE("cubic schedule by hand") {
  const double expected[] = {0.3416, 0.5488, 0.6552, 0.6944, 0.7};
  for (std::size_t t = 1; t <= 5; ++t)
    CHECK(losa::scheduled_sparsity(losa::Cubic{}, t, 5, 0.7) == doctest::Approx(expected[t - 1]).epsilon(1e-15));
  const double share[] = {0.488, 0.784, 0.936, 0.992};
  for (std::size_t t = 1; t <= 4; ++t)
    CHECK(losa::Cubic{}(t, 5, 0.5) == doctest::Approx(0.5 * share[t - 1]).epsilon(1e-15));
}

TEST_CASE("linear and one-shot schedules by hand") {
  CHECK(losa::scheduled_sparsity(losa::Linear{}, 1, 4, 0.6) == doctest::Approx(0.15).epsilon(1e-15));
  CHECK(losa::scheduled_sparsity(losa::Linear{}, 3, 4, 0.6) == doctest::Approx(0.45).epsilon(1e-15));
  CHECK(losa::scheduled_sparsity(losa::OneShot{}, 1, 4, 0.6) == 0.6);
}

TEST_CASE("every schedule rises to its end, bit for bit") {
  check_laws(losa::OneShot{});
  check_laws(losa::Linear{});
  check_laws(losa::Cubic{});
  check_laws([](std::size_t t, std::size_t steps, double final) { return losa::Cubic{}(t, steps, final); });
  CHECK(losa::scheduled_sparsity(Eager{}, 1, 3, 0.5) == 0.5);
}

TEST_CASE("schedules refuse steps and sparsities out of range") {
  CHECK_THROWS_WITH_AS(losa::scheduled_sparsity(losa::Cubic{}, 0, 5, 0.5),
                       "scheduled_sparsity: step must be in [1, 5], got 0", losa::RangeError);
  CHECK_THROWS_AS(losa::scheduled_sparsity(losa::Cubic{}, 6, 5, 0.5), losa::RangeError);
  CHECK_THROWS_WITH_AS(losa::scheduled_sparsity(losa::Linear{}, 1, 5, 1.0),
                       "scheduled_sparsity: final sparsity must be in [0, 1), got 1", losa::RangeError);
}
