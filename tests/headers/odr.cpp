// Compiled twice, as first() and as second(), perhaps with other -m flags, and linked into one program: every header is
// included in both, and both run the parts whose code could depend on those flags.
#include <losa/gemm/plain.hpp>
#include <losa/io.hpp>
#include <losa/losa.hpp>
#include <losa/published.hpp>

#include <bit>
#include <vector>

double ENTRY();

double ENTRY() {
  constexpr std::size_t out = 37, in = 131, tokens = 9;
  const losa::Random random{.seed = 7};
  std::vector<float> weight(out * in), x(tokens * in), y(tokens * out), dx(tokens * in);
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(random.normal(i));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(weight.size() + i));
  losa::Mask mask(out, in);
  for (std::size_t r = 0; r < out; ++r)
    for (std::size_t c = 0; c < in; ++c) mask.set(r, c, (r * 31 + c * 17) % 5 < 2);

  losa::ThreadPool pool(2);
  auto packed = losa::pack(losa::view(weight.data(), out, in), mask);
  const auto xs = losa::MatrixView<const float>(x.data(), tokens, in);
  const auto ys = losa::view(y.data(), tokens, out);
  losa::spmm(packed, xs, ys, pool);
  losa::spmm_transposed(packed, ys, losa::view(dx.data(), tokens, in), pool);
  losa::sddmm(ys, xs, packed, pool);

  // Checks of what comes in hold whatever the flags, of this unit or of the other.
  packed.values()[0] = std::bit_cast<float>(0x7fc00000u);
  bool refused = false;
  try {
    losa::quantize<losa::Int8>(packed);
  } catch (const losa::NumericError&) {
    refused = true;
  }
  if (!refused) return 0;
  packed.values()[0] = 1;

  double sum = 0;
  for (float value : dx) sum += static_cast<double>(value);
  for (float value : packed.values()) sum += static_cast<double>(value);
  return sum;
}
