#include "windows.hpp"

#include <doctest/doctest.h>

#include <set>
#include <vector>

using llama::ShuffledWindows;

namespace {
constexpr losa::Random random_numbers{.seed = 3, .stream = 5};
}

TEST_CASE("windows: a pass takes no token twice and leaves out less than two windows") {
  for (std::size_t context : std::vector<std::size_t>{1, 2, 7, 16})
    for (std::size_t tokens :
         std::vector<std::size_t>{context, context + 1, 2 * context - 1, 2 * context, 5 * context + 3, 211}) {
      CAPTURE(context);
      CAPTURE(tokens);
      ShuffledWindows windows(tokens, context, random_numbers);
      const std::size_t n = windows.per_pass();
      for (std::uint64_t pass = 0; pass < 5; ++pass) {
        std::vector<std::size_t> seen(tokens);
        for (std::size_t i = 0; i < n; ++i) {
          const std::size_t start = windows.start(pass * n + i);
          for (std::size_t t = 0; t < context; ++t) ++seen.at(start + t);
        }
        std::size_t once = 0;
        for (std::size_t count : seen) {
          CHECK(count <= 1);
          once += count;
        }
        CHECK(once == n * context);
        CHECK(once + 2 * context > tokens);
      }
    }
}

TEST_CASE("windows: passes differ in order and offset, and every offset and every order comes") {
  ShuffledWindows windows(11, 3, random_numbers);  // 3 windows, offsets 0 to 2
  CHECK(windows.per_pass() == 3);
  std::set<std::vector<std::size_t>> passes;
  std::vector<std::size_t> first(11);
  for (std::uint64_t pass = 0; pass < 1200; ++pass) {
    std::vector<std::size_t> starts;
    for (std::uint64_t i = 0; i < 3; ++i) starts.push_back(windows.start(3 * pass + i));
    passes.insert(starts);
    ++first.at(starts[0]);
  }
  CHECK(passes.size() == 3 * 6);
  for (std::size_t start = 0; start < 9; ++start) CHECK((first[start] > 90 && first[start] < 180));  // 133 expected
  CHECK(first[9] + first[10] == 0);
}

TEST_CASE("windows: a function of seed, stream and index, in whatever order it is asked") {
  ShuffledWindows forwards(500, 20, random_numbers);
  ShuffledWindows backwards(500, 20, random_numbers);
  ShuffledWindows other(500, 20, {.seed = 4, .stream = 5});
  std::vector<std::size_t> starts;
  std::size_t differing = 0;
  for (std::uint64_t i = 0; i < 100; ++i) starts.push_back(forwards.start(i));
  for (std::uint64_t i = 100; i-- > 0;) {
    CHECK(backwards.start(i) == starts[i]);
    differing += other.start(i) != starts[i];
  }
  CHECK(differing > 80);
  CHECK(forwards.start(std::uint64_t{1} << 41) == backwards.start(std::uint64_t{1} << 41));
}

TEST_CASE("windows: a text shorter than a window is refused") {
  CHECK_THROWS_WITH_AS(ShuffledWindows(8, 9, random_numbers), "training needs at least one window of 9 tokens, got 8",
                       losa::RangeError);
  CHECK_THROWS_AS(ShuffledWindows(8, 0, random_numbers), losa::RangeError);
  CHECK(ShuffledWindows(9, 9, random_numbers).start(12) == 0);
}
