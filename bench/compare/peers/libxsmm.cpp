// libxsmm: weights packed beforehand in blocks of 64 × 64, each multiplied by its generated small kernel. Block rows
// are shared out among OpenMP threads. Activations are packed into such blocks at every call, and sums are kept in a
// tile of their own: rows of x and y are often a power of two apart and would push each other out of the cache.

#include <libxsmm.h>

#include <algorithm>
#include <array>
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
    whole_ = kernels_for(block);
    rest_ = operands.tokens % block == 0 ? Kernels{} : kernels_for(operands.tokens % block);
  }
  void run() override {
    const float* w = copies_[turn_++ % copies_.size()].data();
    const std::size_t token_blocks = (operands_.tokens + block - 1) / block;
    const std::size_t out_blocks = layer_.out / block;
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (std::size_t t = 0; t < token_blocks; ++t) pack_tokens(t * block);
#pragma omp for schedule(static)
      for (std::size_t i = 0; i < out_blocks * token_blocks; ++i) {
        const std::size_t r = i / token_blocks * block;
        tile(w + r * layer_.in, r, i % token_blocks * block);
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
  /// Outputs r … r + 63 of the tokens from t on.
  void tile(const float* w, std::size_t r, std::size_t t) {
    alignas(64) std::array<float, block * block> sums;
    const std::size_t n = std::min(block, operands_.tokens - t);
    const Kernels& kernels = n < block ? rest_ : whole_;
    const float* x = x_.data() + t * layer_.in;
    for (std::size_t c = 0; c < layer_.in; c += block, w += block * block, x += n * block)
      (c == 0 ? kernels.first : kernels.next)(w, x, sums.data());
    for (std::size_t i = 0; i < n; ++i)
      std::copy_n(sums.data() + i * block, block, operands_.y + (t + i) * layer_.out + r);
  }

  struct Kernels {
    libxsmm_smmfunction first = nullptr;  // overwrites the sums
    libxsmm_smmfunction next = nullptr;   // adds to them
  };
  static Kernels kernels_for(std::size_t tokens) {
    const auto size = static_cast<libxsmm_blasint>(block);
    const auto make = [&](float beta) {
      const float one = 1;
      const int flags = LIBXSMM_GEMM_FLAG_NONE;
      const int prefetch = LIBXSMM_PREFETCH_NONE;
      const auto kernel = libxsmm_smmdispatch(size, static_cast<libxsmm_blasint>(tokens), size, &size, &size, &size,
                                              &one, &beta, &flags, &prefetch);
      if (kernel == nullptr) throw NotHere("libxsmm generates no kernel here");
      return kernel;
    };
    return {.first = make(0), .next = make(1)};
  }

  Layer layer_;
  Operands operands_;
  std::vector<std::vector<float>> copies_;
  std::vector<float> x_;  // the activations in blocks
  std::size_t turn_ = 0;
  Kernels whole_, rest_;
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
