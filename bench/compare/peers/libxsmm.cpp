// libxsmm: weights packed beforehand in blocks of 64 × 64, each multiplied by its generated small kernel, which adds up
// a whole row of blocks. Block rows are shared out among OpenMP threads.

#include <libxsmm.h>

#include <algorithm>
#include <vector>

#include "../peers.hpp"

namespace compare {
namespace {

constexpr std::size_t block = 64;

class XsmmProduct : public Contender {
 public:
  explicit XsmmProduct(const Layer& layer) : layer_(layer) {
    if (layer.out % block != 0 || layer.in % block != 0) throw NotHere("shapes must be multiples of 64");
  }

  void prepare(const Operands& operands) override {
    operands_ = operands;
    x_.resize(operands.tokens * layer_.in);
    if (copies_.empty()) {
      copies_.push_back(blocks());
      while (copies_.size() < layer_.copies(bytes())) copies_.push_back(copies_[0]);
    }
    whole_ = kernel_for(block);
    rest_ = operands.tokens % block == 0 ? nullptr : kernel_for(operands.tokens % block);
  }
  void run() override {
    const float* w = copies_[turn_++ % copies_.size()].data();
    const std::size_t token_blocks = (operands_.tokens + block - 1) / block;
    const std::size_t out_blocks = layer_.out / block;
    const unsigned long long count = layer_.in / block;
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (std::size_t t = 0; t < token_blocks; ++t) pack_tokens(t * block);
#pragma omp for schedule(static)
      for (std::size_t i = 0; i < out_blocks * token_blocks; ++i) {
        const std::size_t o = i % out_blocks;
        const std::size_t t = i / out_blocks * block;
        const auto kernel = operands_.tokens - t < block ? rest_ : whole_;
        kernel(w + o * block * layer_.in, x_.data() + t * layer_.in, operands_.y + t * layer_.out + o * block, &count);
      }
    }
  }
  std::size_t bytes() const override { return layer_.size() * sizeof(float); }
  std::string kernel() const override { return libxsmm_get_target_arch(); }

 private:
  /// Columns of a block lie together, blocks of 64 rows of W one after another.
  std::vector<float> blocks() const {
    std::vector<float> packed(layer_.size());
    float* p = packed.data();
    for (std::size_t r = 0; r < layer_.out; r += block)
      for (std::size_t c = 0; c < layer_.in; ++c)
        for (std::size_t i = 0; i < block; ++i) *p++ = layer_.weight[(r + i) * layer_.in + c];
    return packed;
  }
  /// Tokens from t on, in blocks of 64 columns, a token's 64 columns together.
  void pack_tokens(std::size_t t) {
    const std::size_t n = std::min(block, operands_.tokens - t);
    float* p = x_.data() + t * layer_.in;
    for (std::size_t c = 0; c < layer_.in; c += block)
      for (std::size_t i = 0; i < n; ++i) p = std::copy_n(operands_.x + (t + i) * layer_.in + c, block, p);
  }
  libxsmm_smmfunction_reducebatch_strd kernel_for(std::size_t tokens) const {
    const auto size = static_cast<libxsmm_blasint>(block);
    const auto n = static_cast<libxsmm_blasint>(tokens);
    const auto ldc = static_cast<libxsmm_blasint>(layer_.out);
    const float one = 1;
    const float zero = 0;
    const int flags = LIBXSMM_GEMM_FLAG_NONE;
    const int prefetch = LIBXSMM_PREFETCH_NONE;
    const auto kernel =
        libxsmm_smmdispatch_reducebatch_strd(size, n, size, static_cast<libxsmm_blasint>(block * block * sizeof(float)),
                                             static_cast<libxsmm_blasint>(tokens * block * sizeof(float)), &size, &size,
                                             &ldc, &one, &zero, &flags, &prefetch);
    if (kernel == nullptr) throw NotHere("libxsmm generates no kernel here");
    return kernel;
  }

  Layer layer_;
  Operands operands_;
  std::vector<std::vector<float>> copies_;
  std::vector<float> x_;  // the activations in blocks
  std::size_t turn_ = 0;
  libxsmm_smmfunction_reducebatch_strd whole_ = nullptr;
  libxsmm_smmfunction_reducebatch_strd rest_ = nullptr;
};

}  // namespace

void add_libxsmm(Field& field) {
  libxsmm_init();
  field.libraries.push_back({.name = "libxsmm", .version = LIBXSMM_VERSION, .absent = {}});
  field.entries.push_back({.name = "libxsmm", .type = "f32", .format = "dense, packed", .make = [](const Layer& layer) {
                             return std::make_unique<XsmmProduct>(layer);
                           }});
}

}  // namespace compare
