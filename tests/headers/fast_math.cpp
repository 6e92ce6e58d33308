// Compiled with -ffast-math: NaN and Inf are refused wherever losa says so, in files of every dtype, in scores,
// statistics, options and results, and what is in range is not. Numbers get their bits from a volatile integer and go
// from memory to memory, as functions that return or take one are promised that it is finite.
#include <losa/io.hpp>
#include <losa/losa.hpp>
#include <losa/published.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#if defined(WITH_ADAPTATION)
#include "../adapt/common.hpp"
#endif

namespace {

using losa::bf16;
using losa::f16;
using losa::MatrixView;

template <class Number>
struct Special {
  const char* name;
  Number value;
};

volatile std::uint64_t patterns[4][4] = {
    // 1/2              NaN                  Inf                 -Inf
    {0x3fe0000000000000, 0x7ff8000000000000, 0x7ff0000000000000, 0xfff0000000000000},
    {0x3f000000, 0x7fc00000, 0x7f800000, 0xff800000},
    {0x3f00, 0x7fc0, 0x7f80, 0xff80},
    {0x3800, 0x7e00, 0x7c00, 0xfc00},
};

/// 1/2, NaN, Inf, −Inf.
template <class Number>
const Special<Number>* specials() {
  static Special<Number> numbers[4] = {{"1/2", {}}, {"NaN", {}}, {"Inf", {}}, {"-Inf", {}}};
  const int row = std::is_same_v<Number, double>  ? 0
                  : std::is_same_v<Number, float> ? 1
                  : std::is_same_v<Number, bf16>  ? 2
                                                  : 3;
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t bits = patterns[row][i];
    std::memcpy(&numbers[i].value, &bits, sizeof(Number));
  }
  return numbers;
}

int failures = 0;
int checks = 0;

void expect(bool good, const std::string& what, const char* number) {
  ++checks;
  if (good) return;
  ++failures;
  std::printf("fast_math: %s: %s\n", what.c_str(), number);
}

/// `use` must throw for NaN and, if `infinite` says so, for Inf and −Inf, and must not for 1/2.
template <class Number>
void refuses(const std::string& what, const std::function<void(const Number&)>& use, bool infinite = true) {
  for (int i = 0; i < (infinite ? 4 : 2); ++i) {
    const Special<Number>& special = specials<Number>()[i];
    bool refused = false;
    try {
      use(special.value);
    } catch (const losa::Error&) {
      refused = true;
    }
    expect(refused == (i != 0), what + (i == 0 ? ": refused" : ": let through"), special.name);
  }
}

std::string path_of(const char* name) { return std::string("fast_math_") + name + ".safetensors"; }

/// A file with one tensor "x" of n numbers, 1/2 and −1/2 but for one.
template <class Number>
std::string file_with(const Number& number, std::size_t n, std::size_t at) {
  std::vector<Number> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::memcpy(&values[i], &specials<Number>()[0].value, sizeof(Number));
    if (i % 2 == 0) reinterpret_cast<unsigned char*>(&values[i])[sizeof(Number) - 1] |= 0x80;  // the sign
  }
  std::memcpy(&values[at], &number, sizeof number);
  const std::string path = path_of("values");
  losa::io::SafetensorsWriter writer(path);
  writer.add<Number>("x", {1, n}, std::span<const Number>(values));
  writer.commit();
  return path;
}

template <class Number>
void files(const std::string& dtype) {
  constexpr std::size_t n = 2100;
  for (std::size_t at : {0, 1023, 1024, 2099}) {
    refuses<Number>("read_f32 of " + dtype, [&](const Number& number) {
      const losa::io::SafetensorsFile file(file_with(number, n, at));
      std::vector<float> out(n);
      losa::io::read_f32(file.at("x"), std::span<float>(out));
    });
    refuses<Number>("read_f32 of a matrix of " + dtype, [&](const Number& number) {
      const losa::io::SafetensorsFile file(file_with(number, n, at));
      std::vector<float> out(n);
      losa::io::read_f32(file.at("x"), losa::view(out.data(), 1, n));
    });
  }
  const auto compressed = [](const Number& number, auto as) {
    losa::PackedMatrix<Number> packed(losa::Mask::full(3, 70));
    for (Number& value : packed.values()) std::memcpy(&value, &specials<Number>()[0].value, sizeof value);
    std::memcpy(&packed.values()[139], &number, sizeof number);
    losa::io::SafetensorsWriter writer(path_of("compressed"));
    losa::io::add_compressed(writer, "x.weight", packed);
    writer.commit();
    const losa::io::SafetensorsFile file(path_of("compressed"));
    losa::io::read_compressed<decltype(as)>(file, "x.weight");
  };
  refuses<Number>("read_compressed of " + dtype, [&](const Number& number) { compressed(number, Number{}); });
  refuses<Number>("read_compressed as float of " + dtype, [&](const Number& number) { compressed(number, float{}); });
}

template <class Number>
void quantization(const std::string& dtype) {
  const auto packed = [](const Number& number) {
    losa::PackedMatrix<Number> matrix(losa::Mask::full(3, 70));
    for (Number& value : matrix.values()) std::memcpy(&value, &specials<Number>()[0].value, sizeof value);
    std::memcpy(&matrix.values()[139], &number, sizeof number);
    return matrix;
  };
  refuses<Number>("int8 of " + dtype, [&](const Number& number) { losa::quantize<losa::Int8>(packed(number)); });
  refuses<Number>("int4 of " + dtype, [&](const Number& number) { losa::quantize<losa::Int4>(packed(number)); });
  if constexpr (std::is_same_v<Number, float>)
    refuses<Number>("a scale of int8", [&](const Number& number) {
      const std::vector<std::uint8_t> integers(70);
      const std::vector<float> scales(32, number);
      losa::QuantizedMatrix<losa::Int8>::from_parts(losa::Mask::full(1, 70), integers, scales);
    });
  if constexpr (std::is_same_v<Number, f16>)
    refuses<Number>("a scale of int4", [&](const Number& number) {
      const std::vector<std::uint8_t> integers(35, 0x88);
      const std::vector<f16> scales(64, number);
      losa::QuantizedMatrix<losa::Int4>::from_parts(losa::Mask::full(1, 70), integers, scales);
    });
}

void storage() {
  for (int i = 1; i < 4; ++i) {
    const Special<float>& special = specials<float>()[i];
    const auto b = losa::narrow<bf16>(special.value).bits;
    const auto h = losa::narrow<f16>(special.value).bits;
    expect(i == 1 ? (b & 0x7fff) > 0x7f80 : b == patterns[2][i], "narrow to bf16", special.name);
    expect(i == 1 ? (h & 0x7fff) > 0x7c00 : h == patterns[3][i], "narrow to f16", special.name);
  }
}

void adapter_files() {
  refuses<float>("a factor in an adapter file", [](const float& number) {
    std::vector<float> a(2 * 5), bt(2 * 3);
    std::memcpy(&bt[4], &number, sizeof number);
    const losa::io::AdapterView view{.name = "l", .a = {a.data(), 2, 5}, .bt = {bt.data(), 2, 3}};
    losa::io::save_adapter(path_of("adapter"), std::span(&view, 1));
    losa::io::load_adapter(path_of("adapter"));
  });
  for (const char* digits : {"0.5", "nan", "inf", "-inf", "1e999"}) {
    std::vector<float> a(2 * 5), bt(2 * 3);
    const losa::io::AdapterView view{.name = "l", .a = {a.data(), 2, 5}, .bt = {bt.data(), 2, 3}};
    losa::io::SafetensorsWriter writer(path_of("adapter"));
    losa::io::add_adapter(writer, view);
    writer.metadata("l.scale", digits);
    writer.commit();
    bool refused = false;
    try {
      losa::io::load_adapter(path_of("adapter"));
    } catch (const losa::FileError&) {
      refused = true;
    }
    expect(refused == (digits[0] != '0'), "the scale in an adapter file", digits);
  }
}

void masks() {
  constexpr std::size_t out = 5, in = 30;
  const auto weight_with = [](const float& number) {
    std::vector<float> weight(out * in);
    const losa::Random random{.seed = 3};
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(random.normal(i));
    std::memcpy(&weight[77], &number, sizeof number);
    return weight;
  };
  const losa::Pattern half = losa::Unstructured{0.5};
  refuses<float>(
      "a score",
      [&](const float& number) {
        const auto score = [&](std::size_t, std::size_t, float) { return number; };
        std::vector<float> weight(out * in);
        losa::select(score, losa::MatrixView<const float>(weight.data(), out, in), half);
      },
      false);
  refuses<float>(
      "the score of a weight",
      [&](const float& number) {
        const std::vector<float> weight = weight_with(number);
        losa::select(losa::Magnitude{}, losa::MatrixView<const float>(weight.data(), out, in), half);
      },
      false);
  refuses<double>(
      "a column norm",
      [&](const double& number) {
        std::vector<double> squares(in);
        squares[7] = number;
        const std::vector<float> weight = weight_with(specials<float>()[0].value);
        losa::select(losa::Wanda(std::span<const double>(squares)),
                     losa::MatrixView<const float>(weight.data(), out, in), half);
      },
      false);
  refuses<double>("a sparsity", [&](const double& number) {
    const std::vector<float> weight = weight_with(specials<float>()[0].value);
    losa::select(losa::Magnitude{}, losa::MatrixView<const float>(weight.data(), out, in), losa::Unstructured{number});
  });

  std::vector<double> hessian(in * in);
  for (std::size_t i = 0; i < in; ++i) hessian[i * in + i] = i < 4 ? 0.0 : 1.0 + static_cast<double>(i);  // 4 are dead
  const losa::LayerStatistics statistics{.tokens = 8, .hessian = {hessian.data(), in, in}};
  refuses<float>("a weight for SparseGPT", [&](const float& number) {
    std::vector<float> weight = weight_with(number);
    losa::SparseGpt gpt;
    const losa::Mask mask = gpt.prune(losa::view(weight.data(), out, in), statistics, {.pattern = half});
    expect(mask.zeros() == out * in / 2, "SparseGPT's zeros", "count");
    for (std::size_t r = 0; r < out; ++r)
      for (std::size_t c = 0; c < 4; ++c) expect(!mask(r, c), "a column without input is pruned first", "mask");
    const losa::Mask more = gpt.prune(losa::view(weight.data(), out, in), statistics,
                                      {.pattern = losa::Unstructured{0.7}, .within = &mask});
    expect(more.zeros() == 105, "SparseGPT's zeros within a mask", "count");
  });
  refuses<double>("damping", [&](const double& number) {
    losa::inverse_factor({hessian.data(), in, in}, {.damping = number});
  });
  refuses<double>("a Hessian", [&](const double& number) {
    std::vector<double> with = hessian;
    with[5 * in + 9] = number;
    losa::inverse_factor({with.data(), in, in});
  });
}

void allocation() {
  const std::vector<double> ones(4, 1.0);
  const std::vector<losa::ScoreCurve> curves(1);
  losa::RmiMatrix rmi{.layers = 4, .values = std::vector<double>(16, 0.5)};
  const auto one_of = [](const double& number) {
    std::vector<double> values(4, 0.25);
    values[2] = number;
    return values;
  };
  refuses<double>("zeros_target", [](const double& number) { losa::zeros_target(10, number); });
  refuses<double>("zeros_of", [](const double& number) { losa::zeros_of(losa::Unstructured{number}, 4, 4); });
  refuses<double>("scheduled_sparsity",
                  [](const double& number) { losa::scheduled_sparsity(losa::Cubic{}, 1, 3, number); });
  refuses<double>("uniform_sparsity", [](const double& number) { losa::uniform_sparsity(3, number); });
  refuses<double>("uniform_rank", [](const double& number) { losa::uniform_rank(3, number); });
  refuses<double>("apportion", [&](const double& number) {
    const std::vector<std::size_t> lower(4), upper(4, 9);
    losa::apportion(one_of(number), 7, lower, upper);
  });
  refuses<double>("importance", [&](const double& number) { losa::importance(rmi, number); });
  refuses<double>("target", [&](const double& number) { losa::allocate_sparsity(ones, {.target = number}); });
  refuses<double>("delta",
                  [&](const double& number) { losa::allocate_sparsity(ones, {.target = 0.5, .delta = number}); });
  refuses<double>(
      "a size", [&](const double& number) { losa::allocate_sparsity(ones, {.target = 0.5, .sizes = one_of(number)}); });
  refuses<double>("an importance",
                  [&](const double& number) { losa::allocate_sparsity(one_of(number), {.target = 0.5}); });
  refuses<double>("the published target",
                  [&](const double& number) { losa::published::allocate_sparsity(ones, number, 0.1); });
  refuses<double>("the published box",
                  [&](const double& number) { losa::published::allocate_sparsity(ones, 0.5, number); });
  refuses<double>("an error", [&](const double& number) { losa::allocate_rank(one_of(number), {.mean = 3}); });
  refuses<double>("a mean rank", [&](const double& number) { losa::allocate_rank(ones, {.mean = number, .min = 0}); });
  refuses<double>("a published error",
                  [&](const double& number) { losa::published::allocate_rank(one_of(number), 3); });
  const std::vector<std::vector<double>> spectra(4, {4.0, 2.0, 1.0});
  const auto spectral = [&](const std::vector<double>& gains, const std::vector<double>& prices, const double& budget) {
    losa::spectral_ranks(spectra, gains, prices, {.budget = budget, .min = 0, .max = 3});
  };
  refuses<double>("a gain", [&](const double& number) { spectral(one_of(number), ones, 5.0); });
  refuses<double>("a price", [&](const double& number) { spectral({}, one_of(number), 1.0); });
  refuses<double>("a budget", [&](const double& number) { spectral({}, ones, number); });
  refuses<double>("a spectrum", [&](const double& number) {
    const std::vector<std::vector<double>> with(1, {number, 0.25});
    losa::spectral_ranks(with, {}, std::span(ones).first(1), {.budget = 1.0, .min = 0, .max = 2});
  });
  refuses<double>("water-filling", [&](const double& number) { losa::water_fill(curves, {}, {.target = number}); });
  refuses<double>("its least sparsity",
                  [&](const double& number) { losa::water_fill(curves, {}, {.target = 0.5, .min_sparsity = number}); });
  refuses<double>("its greatest sparsity",
                  [&](const double& number) { losa::water_fill(curves, {}, {.target = 0.5, .max_sparsity = number}); });
  refuses<double>("its gain", [&](const double& number) {
    const std::vector<double> gains(1, number);
    losa::water_fill(curves, gains, {.target = 0.5});
  });
  refuses<double>("a score curve", [](const double& number) { losa::ScoreCurve().add(number); });
  refuses<float>("a score curve's weight", [](const float& number) {
    losa::ScoreCurve().add(losa::Magnitude{}, losa::MatrixView<const float>(&number, 1, 1));
  });
  refuses<double>("a Gram matrix", [&](const double& number) {
    std::vector<double> gram{2, 0.5, 0.5, 2};
    gram[1] = gram[2] = number;
    const losa::MatrixView<const double> view(gram.data(), 2, 2);
    losa::mutual_information(std::span(&view, 1));
  });
}

void adapters() {
  refuses<double>("an adapter's scale",
                  [](const double& number) { losa::MaskedLora(4, 5, {.rank = 1, .scale = number}); });
  refuses<double>("dropout", [](const double& number) { losa::MaskedLora(4, 5, {.rank = 1, .dropout = number}); });
  refuses<float>("a factor", [](const float& number) {
    losa::MaskedLora adapter(4, 5, {.rank = 2});
    std::memcpy(&adapter.parameters()[0][3], &number, sizeof number);
    std::vector<float> weight(20);
    adapter.resize(1, losa::view(weight.data(), 4, 5), losa::Mask::full(4, 5), 0);
  });
  const auto step = [](const losa::AdamWOptions& options) {
    std::vector<float> p(3), g(3);
    losa::Moments moments;
    losa::adamw_step(p, g, moments, options, 0.1, 1);
  };
  refuses<double>("beta1", [&](const double& number) { step({.beta1 = number}); });
  refuses<double>("beta2", [&](const double& number) { step({.beta2 = number}); });
  refuses<double>("a norm", [](const double& number) { losa::clip_scale(number, 1.0); });
  refuses<double>(
      "a bound of the norm", [](const double& number) { losa::clip_scale(1.0, number); }, false);
}

#if defined(WITH_ADAPTATION)
/// Reports the loss that it is given.
struct Engine : toy::SmallEngine {
  using toy::SmallEngine::Engine;
  const double* loss = nullptr;
  double train_step(std::uint64_t step) {
    toy::SmallEngine::train_step(step);
    return *loss;
  }
};

void adaptation() {
  refuses<double>("a loss", [](const double& number) {
    Engine engine(1);
    engine.loss = &number;
    losa::adapt(engine, losa::as_policy(losa::Wanda{}), toy::uniform_recipe(), toy::options(0.5, 1, 2));
  });
  refuses<double>("the sparsity of a run", [](const double& number) {
    Engine engine(1);
    losa::AdaptOptions options = toy::options(0.5, 1, 0);
    std::memcpy(&options.sparsity, &number, sizeof number);
    losa::adapt(engine, losa::as_policy(losa::Wanda{}), toy::uniform_recipe(), options);
  });
}

#endif

}  // namespace

int main() {
  files<double>("f64");
  files<float>("f32");
  files<bf16>("bf16");
  files<f16>("f16");
  quantization<double>("f64");
  quantization<float>("f32");
  quantization<bf16>("bf16");
  quantization<f16>("f16");
  storage();
  adapter_files();
  masks();
  allocation();
  adapters();
#if defined(WITH_ADAPTATION)
  adaptation();
#endif
  std::printf("fast_math: %d checks, %d failed\n", checks, failures);
  return failures != 0;
}
