#include <losa/io/state_file.hpp>

#include <limits>
#include <vector>

#include "io_test.hpp"

using namespace io_test;
using losa::Mask;
using losa::io::load_state;
using losa::io::save_state;

namespace {

struct State {
  bool flag = false;
  std::uint64_t step = 0;
  std::int32_t small = 0;
  double loss = 0;
  float rate = 0;
  std::string name;
  std::vector<float> floats;
  std::vector<double> doubles;
  std::vector<std::uint64_t> counts;
  std::vector<std::uint8_t> bytes;
  Mask mask;
  std::vector<std::vector<float>> layers;
  std::vector<float> parameters = std::vector<float>(4);  // of a size that is known
  std::vector<float> matrix = std::vector<float>(8);      // 2 × 3 with a stride of 4

  template <class V>
  void visit(V& v) {
    v("flag", flag);
    v("step", step);
    v("name", name);
    v.group("numbers.", [&] {
      v("small", small);
      v("loss", loss);
      v("rate", rate);
      v.group("many.", [&] { v("floats", floats); });
      v("doubles", doubles);
    });
    v("counts", counts);
    v("bytes", bytes);
    v("mask", mask);
    std::uint64_t n = layers.size();
    v("layers", n);
    layers.resize(n);
    for (std::size_t i = 0; i < n; ++i) v("layer." + std::to_string(i), layers[i]);
    v("parameters", std::span<float>(parameters));
    v("matrix", losa::view(matrix.data(), 2, 3, 4));
  }
};

State example() {
  State state;
  state.flag = true;
  state.step = ~std::uint64_t{0};
  state.small = -7;
  state.loss = std::bit_cast<double>(0x7ff4000000000123u);  // a signalling NaN with a payload
  state.rate = -0.0f;
  state.name = std::string("na\0me\n\xff", 7);
  state.floats = {std::bit_cast<float>(0xffc00001u), -0.0f, std::numeric_limits<float>::denorm_min(),
                  std::numeric_limits<float>::infinity(), 0.1f};
  state.doubles = {-0.0, 1e300};
  state.bytes = {1, 2, 3};
  state.mask = Mask(3, 70);
  state.mask.set(0, 69, true);
  state.mask.set(2, 0, true);
  state.layers = {{1, 2}, {}, {3}};
  state.parameters = {4, 5, 6, 7};
  state.matrix = {1, 2, 3, 0, 4, 5, 6, 0};
  return state;
}

/// Every bit of a vector's numbers.
template <class T>
std::string bits(const std::vector<T>& values) {
  return raw(values);
}

void save(const std::string& path, State& state, std::string_view fingerprint = "run 1") {
  save_state(path, fingerprint, [&](auto& v) { state.visit(v); });
}
State load(const std::string& path, std::string_view fingerprint = "run 1") {
  State state;
  load_state(path, fingerprint, [&](auto& v) { state.visit(v); });
  return state;
}
template <class T>
std::string refusal(const std::string& path, const std::string& name, T value) {
  return sentence([&] { load_state(path, "f", [&](auto& v) { v(name, value); }); });
}

}  // namespace

TEST_CASE("state file: everything comes back to the last bit") {
  TempDir dir;
  State before = example();
  save(dir / "x", before);
  const State after = load(dir / "x");
  CHECK(after.flag);
  CHECK(after.step == before.step);
  CHECK(after.small == -7);
  CHECK(std::bit_cast<std::uint64_t>(after.loss) == 0x7ff4000000000123u);
  CHECK(std::bit_cast<std::uint32_t>(after.rate) == 0x80000000u);
  CHECK(after.name == before.name);
  CHECK(bits(after.floats) == bits(before.floats));
  CHECK(bits(after.doubles) == bits(before.doubles));
  CHECK(after.counts.empty());
  CHECK(after.bytes == before.bytes);
  CHECK(after.mask == before.mask);
  CHECK(after.layers == before.layers);
  CHECK(after.parameters == before.parameters);
  CHECK(after.matrix == before.matrix);

  State again = after;
  save(dir / "y", again);
  CHECK(slurp(dir / "x") == slurp(dir / "y"));
  CHECK(dir.names() == std::vector<std::string>{"x", "y"});

  // Values take the size that was saved, whatever they held.
  State full = example();
  full.floats.resize(100);
  full.mask = Mask::full(7, 7);
  State empty;
  save(dir / "empty", empty);
  load_state(dir / "empty", "run 1", [&](auto& v) { full.visit(v); });
  CHECK(full.floats.empty());
  CHECK(full.mask == Mask());
  CHECK(full.layers.empty());
  CHECK(!full.flag);
}

TEST_CASE("state file: names, sizes and alignment in the file") {
  TempDir dir;
  State state = example();
  save(dir / "x", state);
  const losa::io::SafetensorsFile file(dir / "x");
  CHECK(file.find("numbers.many.floats") != nullptr);
  for (const auto& tensor : file.tensors())
    CHECK(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % size_of(tensor.dtype) == 0);
  CHECK(file.metadata().at("losa.fingerprint") == "run 1");
  losa::io::StateReader reader(dir / "x", "run 1");
  CHECK(reader.contains("step"));
  CHECK(!reader.contains("steps"));
}

TEST_CASE("state file: another fingerprint is refused by name") {
  TempDir dir;
  State state = example();
  save(dir / "x", state, "--sparsity 0.5");
  CHECK(sentence([&] { load(dir / "x", "--sparsity 0.6"); }) ==
        (dir / "x") + ": saved state belongs to \"--sparsity 0.5\", not to \"--sparsity 0.6\"");
  CHECK(load(dir / "x", "--sparsity 0.5").step == state.step);

  // Of long ones, the difference is shown.
  const std::string long_one = std::string(1000, '-') + "seed 1" + std::string(1000, '-');
  const std::string long_two = std::string(1000, '-') + "seed 2" + std::string(1000, '-');
  save(dir / "x", state, long_one);
  const std::string error = sentence([&] { load(dir / "x", long_two); });
  CHECK(error.find("seed 1") < error.find("seed 2"));
  CHECK(error.find("seed 2") != std::string::npos);
  CHECK(error.size() < 600);
}

TEST_CASE("state file: no truncation and no flipped bit goes unnoticed") {
  TempDir dir;
  std::vector<float> values{1, 2, 3};
  std::string text = "abc";
  std::uint64_t step = 5;
  const auto visit = [&](auto& v) {
    v("values", values);
    v("text", text);
    v("step", step);
  };
  save_state(dir / "x", "f", visit);
  const std::string whole = slurp(dir / "x");
  const auto load_bytes = [&](std::span<const std::byte> bytes) {
    losa::io::StateReader reader(losa::io::SafetensorsFile::from_memory(bytes, "m"), "f");
    visit(reader);
    reader.finish();
  };
  load_bytes(bytes_of(whole));
  for (std::size_t size = 0; size < whole.size(); ++size)
    CHECK(sentence([&] { load_bytes(bytes_of(std::string_view(whole).substr(0, size))); }) != "");
  std::size_t unnoticed = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    try {
      load_bytes(bytes_of(flipped));
      // All that may go unnoticed says nothing of the state: "format", its value, the padding of the header.
      ++unnoticed;
      CHECK(values == std::vector<float>{1, 2, 3});
      CHECK(text == "abc");
      CHECK(step == 5);
    } catch (const losa::FileError&) {
    }
  }
  CHECK(unnoticed < 8 * 16);
}

TEST_CASE("state file: what does not match is refused in one sentence") {
  TempDir dir;
  const std::string path = dir / "x";
  const auto keep = [&](const auto& value) { save_state(path, "f", [&](auto& v) { v("a", value); }); };
  keep(std::vector<float>{1, 2});
  CHECK(refusal(path, "b", 1.0) == path + ": tensor \"b\" is missing");
  CHECK(refusal(path, "a", 1.0) == path + ": tensor \"a\": must be F64 of shape [], got F32 of shape [2]");
  CHECK(refusal(path, "a", std::string()) == path + ": tensor \"a\": must be U8 of shape [2], got F32 of shape [2]");
  CHECK(refusal(path, "a", std::vector<double>()) ==
        path + ": tensor \"a\": must be F64 of shape [2], got F32 of shape [2]");
  CHECK(refusal(path, "a", Mask()) == path + ": tensor \"a\": dtype must be U64, got F32");
  std::vector<float> three(3);
  CHECK(refusal(path, "a", std::span<float>(three)) ==
        path + ": tensor \"a\": must be F32 of shape [3], got F32 of shape [2]");
  CHECK(refusal(path, "a", losa::view(three.data(), 1, 2)) ==
        path + ": tensor \"a\": must be F32 of shape [1, 2], got F32 of shape [2]");
  CHECK(sentence([&] { load_state(path, "f", [](auto&) {}); }) ==
        path + ": saved state holds 1 values, of which 0 were asked for");
  keep(std::uint64_t{1});
  CHECK(refusal(path, "a", true) == path + ": tensor \"a\": must be BOOL of shape [], got U64 of shape []");

  keep(std::vector<std::uint64_t>{3});
  CHECK(refusal(path, "a", Mask()) == path + ": tensor \"a\": is too short for a mask");
  keep(std::vector<std::uint64_t>{3, 70, 0});
  CHECK(refusal(path, "a", Mask()) == path + ": tensor \"a\": a mask of 3 × 70 does not have 1 words");
  keep(std::vector<std::uint64_t>{~std::uint64_t{0}, ~std::uint64_t{0}, 0});
  CHECK(refusal(path, "a", Mask()).ends_with(" does not have 1 words"));
  keep(std::vector<std::uint64_t>{1, 70, 0, 64});
  CHECK(refusal(path, "a", Mask()) == path + ": tensor \"a\": row 0 keeps a weight past the last column, 69");
  keep(std::vector<std::uint64_t>{~std::uint64_t{0}, 0});
  CHECK(refusal(path, "a", Mask()) == "");  // no bits at all

  spit(path, safetensors("{}"));
  CHECK(refusal(path, "a", 1.0) == path + ": is not a saved state of this version");
}

TEST_CASE("state file: a state that cannot be saved leaves the old one") {
  TempDir dir;
  State state = example();
  save(dir / "x", state);
  const std::string before = slurp(dir / "x");
  const double value = 1;
  CHECK(sentence([&] {
          save_state(dir / "x", "f", [&](auto& v) {
            v("a", value);
            v("a", value);
          });
        }) == (dir / "x") + ": state \"a\" is shown twice");
  std::vector<float> growing;
  CHECK(sentence([&] {
          save_state(dir / "x", "f", [&](auto& v) {
            v("a", growing);
            growing.push_back(1);
          });
        }) == (dir / "x") + ": the state changed while it was being saved: 4 bytes after 0");
  CHECK(sentence([&] { save(dir / "x", state, "\xff"); }) == (dir / "x") + ": \"\xff\" is not UTF-8");
  CHECK(slurp(dir / "x") == before);
  CHECK(dir.names() == std::vector<std::string>{"x"});
  CHECK(sentence([&] { save("/dev/full", state); }) == "/dev/full: cannot write: No space left on device");
}

TEST_CASE("state file: the hash does not depend on how bytes are cut into pieces, and depends on every byte") {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 37);
  const auto whole = [](std::string_view bytes) {
    losa::detail::Hash64 hash;
    hash.update(bytes);
    return hash.finish();
  };
  for (std::size_t first = 0; first <= 20; ++first)
    for (std::size_t second = first; second <= 40; ++second) {
      losa::detail::Hash64 hash;
      hash.update(std::string_view(text).substr(0, first));
      hash.update(std::string_view(text).substr(first, second - first));
      hash.update(std::string_view(text).substr(second));
      CHECK(hash.finish() == whole(text));
    }
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] = static_cast<char>(other[i] ^ 1);
    CHECK(whole(other) != whole(text));
    CHECK(whole(text.substr(0, i)) != whole(text));
  }
  CHECK(whole(std::string(1, '\0')) != whole(std::string(2, '\0')));
  CHECK(losa::detail::hex(0x0123456789abcdefu) == "0123456789abcdef");
}
