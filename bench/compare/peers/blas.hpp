#pragma once
// The products by a BLAS that was opened at run time: two libraries that both export cblas_sgemm stand side by side.

#include <dlfcn.h>

#include <cstddef>
#include <string>
#include <vector>

#include "../peers.hpp"

namespace compare {

/// The functions of one library, kept open until the program ends.
class Dynamic {
 public:
  explicit Dynamic(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)) {
    if (handle_ == nullptr) throw NotHere(dlerror());
  }
  /// Null if the library has no function of that name.
  template <class F>
  F* find(const char* name) const {
    return reinterpret_cast<F*>(dlsym(handle_, name));
  }
  template <class F>
  F* get(const char* name) const {
    if (F* f = find<F>(name)) return f;
    throw NotHere(std::string("no function ") + name);
  }

 private:
  void* handle_;
};

namespace cblas {

enum : int { row_major = 101, no_trans = 111, trans = 112 };
using Sgemm = void(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                   int ldb, float beta, float* c, int ldc);
using Sgemv = void(int order, int t, int m, int n, float alpha, const float* a, int lda, const float* x, int incx,
                   float beta, float* y, int incy);

}  // namespace cblas

/// Row-major copies of the weights, as many as it takes to have them cold.
class DenseCopies {
 public:
  void make(const Layer& layer) {
    while (copies_.size() < layer.copies(layer.size() * sizeof(float)))
      copies_.emplace_back(layer.weight, layer.weight + layer.size());
  }
  const float* next() { return copies_[turn_++ % copies_.size()].data(); }

 private:
  std::vector<std::vector<float>> copies_;
  std::size_t turn_ = 0;
};

struct BlasFunctions {
  cblas::Sgemm* sgemm = nullptr;
  cblas::Sgemv* sgemv = nullptr;
  std::function<std::string()> kernel;
};

class BlasProduct : public Contender {
 public:
  BlasProduct(const Layer& layer, const BlasFunctions& blas, Op op) : layer_(layer), blas_(blas), op_(op) {}

  void prepare(const Operands& operands) override {
    operands_ = operands;
    if (op_ != Op::sddmm) copies_.make(layer_);
  }
  void run() override {
    const int out = static_cast<int>(layer_.out);
    const int in = static_cast<int>(layer_.in);
    const int tokens = static_cast<int>(operands_.tokens);
    const auto& [x, g, y, t] = operands_;
    using namespace cblas;
    if (op_ == Op::sddmm) {
      blas_.sgemm(row_major, trans, no_trans, out, in, tokens, 1, g, out, x, in, 0, y, in);
    } else if (op_ == Op::dx) {
      blas_.sgemm(row_major, no_trans, no_trans, tokens, in, out, 1, g, out, copies_.next(), in, 0, y, in);
    } else if (tokens == 1) {
      blas_.sgemv(row_major, no_trans, out, in, 1, copies_.next(), in, x, 1, 0, y, 1);
    } else {
      blas_.sgemm(row_major, no_trans, trans, tokens, out, in, 1, x, in, copies_.next(), in, 0, y, out);
    }
  }
  std::size_t bytes() const override { return layer_.size() * sizeof(float); }
  std::string kernel() const override { return blas_.kernel(); }

 private:
  Layer layer_;
  BlasFunctions blas_;
  Op op_;
  Operands operands_;
  DenseCopies copies_;
};

inline void add_blas(Field& field, const std::string& name, const BlasFunctions& blas) {
  for (Op op : {Op::product, Op::dx, Op::sddmm})
    field.entries.push_back({.name = name, .type = "f32", .format = "dense", .op = op, .make = [=](const Layer& l) {
                               return std::make_unique<BlasProduct>(l, blas, op);
                             }});
}

}  // namespace compare
