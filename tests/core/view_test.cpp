#include <losa/core/view.hpp>

#include <doctest/doctest.h>

#include <array>
#include <numeric>
#include <type_traits>

TEST_CASE("view: element (r, c) lies at r·stride + c, rows and blocks see the same elements") {
  std::array<int, 40> data{};
  std::iota(data.begin(), data.end(), 0);
  for (std::size_t stride : {5u, 7u, 8u}) {
    const auto m = losa::view(data.data(), 5, 5, stride);
    for (std::size_t r = 0; r < 5; ++r)
      for (std::size_t c = 0; c < 5; ++c) {
        CHECK(m(r, c) == static_cast<int>(r * stride + c));
        CHECK(m.row(r)[c] == m(r, c));
      }
    const auto part = m.block(1, 2, 3, 2);
    CHECK(part.rows == 3);
    CHECK(part.cols == 2);
    CHECK(part.stride == stride);
    for (std::size_t r = 0; r < 3; ++r)
      for (std::size_t c = 0; c < 2; ++c) CHECK(&part(r, c) == &m(r + 1, c + 2));
    CHECK(m.size() == 25);
    CHECK(m.contiguous() == (stride == 5));
    CHECK(m.block(0, 0, 1, 3).contiguous());
  }
}

TEST_CASE("view: mutable converts to const and not back") {
  static_assert(std::is_convertible_v<losa::MatrixView<float>, losa::MatrixView<const float>>);
  static_assert(!std::is_convertible_v<losa::MatrixView<const float>, losa::MatrixView<float>>);
  float value = 1;
  const losa::MatrixView<const float> m = losa::view(&value, 1, 1);
  value = 2;
  CHECK(m(0, 0) == 2);
  CHECK(losa::MatrixView<float>{}.empty());
  CHECK(losa::view(&value, 0, 3).empty());
  CHECK(losa::view(&value, 3, 0).empty());
}

TEST_CASE("view: a stride shorter than a row and a wrong shape are told apart in words") {
  float value = 0;
  CHECK_THROWS_WITH_AS(losa::view(&value, 2, 3, 2), "view: stride 2 is shorter than a row of 3 columns",
                       losa::ShapeError);
  CHECK_THROWS_WITH_AS(losa::detail::expect_shape("spmm", "y", losa::view(&value, 2, 3), 2, 4),
                       "spmm: y must be 2 × 4, got 2 × 3", losa::ShapeError);
  CHECK_THROWS_AS(losa::detail::expect_shape("spmm", "y", losa::view(&value, 2, 3), 3, 3), losa::ShapeError);
  CHECK_NOTHROW(losa::detail::expect_shape("spmm", "y", losa::view(&value, 2, 3), 2, 3));
  CHECK(losa::detail::shape(losa::view(&value, 2, 3)) == "2 × 3");
}
