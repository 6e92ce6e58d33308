#include <losa/io/json_document.hpp>

#include <string>

#include "io_test.hpp"

using namespace io_test;
using losa::detail::parse_json_document;

namespace {

std::string refusal(const std::string& text, std::size_t depth = 8) {
  return sentence([&] { parse_json_document(text, "j", depth); });
}

}  // namespace

TEST_CASE("json document: the tree that nlohmann-json builds, members in their order") {
  for (const char* text : {"{}", "[]", "7", "-7", "1.5", "\"x\"", "null", "true", R"([1,[2,{"a":[]}],{}])",
                           R"({"z":1,"a":{"c":[null,false,-2,1e300],"b":"ä"},"m":18446744073709551615})"}) {
    const auto document = parse_json_document(text, "j", 8);
    CHECK(document == nlohmann::ordered_json::parse(text));
    CHECK(document.dump() == nlohmann::ordered_json::parse(text).dump());
  }
}

TEST_CASE("json document: what is said twice must be said alike") {
  CHECK(parse_json_document(R"({"a":1,"b":{"x":[1,2]},"a":1,"b":{"x":[1,2]}})", "j", 8).dump() ==
        R"({"a":1,"b":{"x":[1,2]}})");
  CHECK(parse_json_document(R"({"a":1,"a":1.0})", "j", 8)["a"] == 1);
  CHECK(refusal(R"({"a":1,"a":2})") == "j: JSON key \"a\" appears twice, with different values");
  CHECK(refusal(R"({"o":{"a":[1],"b":0,"a":[1,2]}})") == "j: JSON key \"a\" appears twice, with different values");
  CHECK(refusal(R"([{"a":1},{"a":2}])").empty());
}

TEST_CASE("json document: what is no document") {
  CHECK(refusal("") == "j: is empty, not JSON");
  CHECK(refusal("{\"a\": NaN}") ==
        "j: not valid JSON at byte 7 (NaN and Infinity are no JSON: write null, or a number)");
  CHECK(refusal(R"({"a": "\N"})").find("NaN") == std::string::npos);
  CHECK(refusal("{\"a\":") == "j: not valid JSON at byte 6");
  CHECK(refusal("{} {}") == "j: not valid JSON at byte 4");
  using namespace std::string_literals;
  CHECK(refusal("{}\0{}"s) == "j: not valid JSON at byte 3, a NUL");
  CHECK(refusal("{\"a\":1}\0"s) == "j: not valid JSON at byte 8, a NUL");
  CHECK(refusal("[[1]]", 2).empty());
  CHECK(refusal("[[[1]]]", 2) == "j: JSON is nested deeper than 2 levels");
  CHECK(refusal(std::string(1'000'000, '[')) == "j: JSON is nested deeper than 8 levels");
  std::string many = "{";
  for (int i = 0; i < 200'000; ++i) many += losa::detail::text("\"k", i, "\":0,");
  CHECK(refusal(many + "\"k7\":1}") == "j: JSON key \"k7\" appears twice, with different values");
}
