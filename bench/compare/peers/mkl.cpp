// MKL: plain calls, and the weights packed beforehand. It shares the OpenMP threads of the other peers.

#include <cstdlib>
#include <fstream>
#include <new>

#include "blas.hpp"

namespace compare {
namespace {

enum : int { b_matrix = 162, packed = 151 };
using PackSize = std::size_t(int identifier, int m, int n, int k);
using Pack = void(int order, int identifier, int t, int m, int n, int k, float alpha, const float* src, int ld,
                  float* dest);
using Compute = void(int order, int ta, int tb, int m, int n, int k, const float* a, int lda, const float* b, int ldb,
                     float beta, float* c, int ldc);

/// The library for this processor that MKL has loaded by itself: "mkl_avx2", "mkl_def".
std::string loaded_kernels() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    for (const char* name : {"mkl_avx10", "mkl_avx512", "mkl_avx2", "mkl_mc3", "mkl_def"})
      if (line.find(std::string("lib") + name) != std::string::npos) return name;
  return "mkl";
}

struct PackedFunctions {
  PackSize* size;
  Pack* pack;
  Compute* compute;
};

struct Free {
  void operator()(float* p) const { std::free(p); }
};

class PackedProduct : public Contender {
 public:
  PackedProduct(const Layer& layer, const PackedFunctions& mkl) : layer_(layer), mkl_(mkl) {}

  /// The packed form depends on the number of tokens.
  void prepare(const Operands& operands) override {
    operands_ = operands;
    tokens_ = static_cast<int>(operands.tokens);
    bytes_ = mkl_.size(b_matrix, tokens_, out_, in_);
    copies_.clear();
    for (std::size_t n = layer_.copies(bytes_); copies_.size() < n;) {
      copies_.emplace_back(static_cast<float*>(std::aligned_alloc(64, (bytes_ + 63) / 64 * 64)));
      if (copies_.back() == nullptr) throw std::bad_alloc();
      mkl_.pack(cblas::row_major, b_matrix, cblas::trans, tokens_, out_, in_, 1, layer_.weight, in_,
                copies_.back().get());
    }
  }
  void run() override {
    mkl_.compute(cblas::row_major, cblas::no_trans, packed, tokens_, out_, in_, operands_.x, in_,
                 copies_[turn_++ % copies_.size()].get(), in_, 0, operands_.y, out_);
  }
  std::size_t bytes() const override { return bytes_; }
  std::string kernel() const override { return loaded_kernels(); }

 private:
  Layer layer_;
  PackedFunctions mkl_;
  Operands operands_;
  int out_ = static_cast<int>(layer_.out);
  int in_ = static_cast<int>(layer_.in);
  int tokens_ = 0;
  std::size_t bytes_ = 0;
  std::size_t turn_ = 0;
  std::vector<std::unique_ptr<float, Free>> copies_;
};

}  // namespace

void add_mkl(Field& field, std::size_t threads) {
  const Dynamic library(LOSA_COMPARE_MKL);
  library.get<void(int)>("MKL_Set_Num_Threads")(static_cast<int>(threads));
  char version[256] = {};
  library.get<void(char*, int)>("MKL_Get_Version_String")(version, sizeof version - 1);
  std::string text = version;
  text.erase(text.find_last_not_of(' ') + 1);
  field.libraries.push_back({.name = "MKL", .version = text, .absent = {}});
  const BlasFunctions blas{.sgemm = library.get<cblas::Sgemm>("cblas_sgemm"),
                           .sgemv = library.get<cblas::Sgemv>("cblas_sgemv"),
                           .kernel = loaded_kernels};
  add_blas(field, "MKL", blas);
  const PackedFunctions functions{.size = library.get<PackSize>("cblas_sgemm_pack_get_size"),
                                  .pack = library.get<Pack>("cblas_sgemm_pack"),
                                  .compute = library.get<Compute>("cblas_sgemm_compute")};
  field.entries.push_back(
      {.name = "MKL packed", .type = "f32", .format = "dense, packed", .make = [functions](const Layer& layer) {
         return std::make_unique<PackedProduct>(layer, functions);
       }});
}

}  // namespace compare
