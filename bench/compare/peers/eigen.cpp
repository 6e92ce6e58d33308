// Eigen's own kernels. This file alone is compiled for the processor at hand, as a user of Eigen would; the other name
// of the namespace keeps the linker from taking these functions for those that losa's plain build has.

#define Eigen EigenNative
#include <Eigen/Core>

#include "blas.hpp"

namespace compare {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Const = Eigen::Map<const Matrix>;

class EigenProduct : public Contender {
 public:
  EigenProduct(const Layer& layer, Op op) : layer_(layer), op_(op) {}

  void prepare(const Operands& operands) override {
    operands_ = operands;
    if (op_ != Op::sddmm) copies_.make(layer_);
  }
  void run() override {
    const auto out = static_cast<Eigen::Index>(layer_.out);
    const auto in = static_cast<Eigen::Index>(layer_.in);
    const auto tokens = static_cast<Eigen::Index>(operands_.tokens);
    const Const x(operands_.x, tokens, in);
    const Const g(operands_.g, tokens, out);
    if (op_ == Op::sddmm) {
      Eigen::Map<Matrix>(operands_.y, out, in).noalias() = g.transpose() * x;
      return;
    }
    const Const w(copies_.next(), out, in);
    if (op_ == Op::dx) {
      Eigen::Map<Matrix>(operands_.y, tokens, in).noalias() = g * w;
    } else if (tokens == 1) {
      Eigen::Map<Eigen::VectorXf>(operands_.y, out).noalias() = w * Eigen::Map<const Eigen::VectorXf>(operands_.x, in);
    } else {
      Eigen::Map<Matrix>(operands_.y, tokens, out).noalias() = x * w.transpose();
    }
  }
  std::size_t bytes() const override { return layer_.size() * sizeof(float); }
  std::string kernel() const override { return Eigen::SimdInstructionSetsInUse(); }

 private:
  Layer layer_;
  Op op_;
  Operands operands_;
  DenseCopies copies_;
};

}  // namespace

void add_eigen(Field& field, std::size_t threads) {
  Eigen::setNbThreads(static_cast<int>(threads));
  const std::string version = std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                              std::to_string(EIGEN_MINOR_VERSION);
  field.libraries.push_back({.name = "Eigen", .version = version, .absent = {}});
  for (Op op : {Op::product, Op::dx, Op::sddmm})
    field.entries.push_back({.name = "Eigen", .type = "f32", .format = "dense", .op = op, .make = [op](const Layer& l) {
                               return std::make_unique<EigenProduct>(l, op);
                             }});
}

}  // namespace compare
