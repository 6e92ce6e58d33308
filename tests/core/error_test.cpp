#include <losa/core/error.hpp>
#include <losa/core/progress.hpp>

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <vector>

TEST_CASE("error: every kind is an Error and a runtime_error") {
  static_assert(std::is_base_of_v<std::runtime_error, losa::Error>);
  const auto caught_as_error = [](auto&& f) {
    try {
      f();
    } catch (const losa::Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  CHECK(caught_as_error([] { losa::detail::raise<losa::ShapeError>("a ", 1); }) == "a 1");
  CHECK(caught_as_error([] { losa::detail::raise<losa::RangeError>("b"); }) == "b");
  CHECK(caught_as_error([] { losa::detail::raise<losa::NumericError>("c"); }) == "c");
  CHECK(caught_as_error([] { losa::detail::raise<losa::FileError>("d"); }) == "d");
  CHECK(caught_as_error([] { losa::detail::raise<losa::UnsupportedError>("e"); }) == "e");
  CHECK_THROWS_AS(losa::detail::raise<losa::FileError>("x"), losa::FileError);
}

TEST_CASE("error: sentences hold numbers in their shortest exact form") {
  using losa::detail::text;
  CHECK(text("got ", 0.1, ", ", 0.1f, ", ", -3, ", ", std::size_t{18446744073709551615u}) ==
        "got 0.1, 0.1, -3, 18446744073709551615");
  CHECK(text(std::string("name"), ' ', std::string_view("view"), true, ',', false) == "name viewtrue,false");
  CHECK(text(1e300) == "1e+300");
  CHECK(text() == "");
}

TEST_CASE("progress: an empty callback goes on, any other decides") {
  CHECK(losa::detail::report({}, {}));
  std::vector<std::string> seen;
  const losa::Progress stop_at_two = [&](const losa::ProgressEvent& event) {
    seen.emplace_back(event.phase);
    return event.done < 2;
  };
  losa::ProgressEvent event;
  event.phase = "prune";
  event.done = 1;
  CHECK(losa::detail::report(stop_at_two, event));
  event.done = 2;
  CHECK_FALSE(losa::detail::report(stop_at_two, event));
  CHECK(seen == std::vector<std::string>{"prune", "prune"});
}
