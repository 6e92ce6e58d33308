// losa's contenders: one line for each value type and format.

#include <losa/gemm.hpp>
#include <losa/version.hpp>
#include <utility>

#include "peers.hpp"

namespace compare {
namespace {

losa::MatrixView<const float> weight(const Layer& layer) { return losa::view(layer.weight, layer.out, layer.in); }

/// Holds cold copies of what `pack(layer)` makes. Every copy is packed anew: copies of one packed matrix may share its
/// structure, which would then stay in the caches.
template <class Pack>
class Sparse : public Contender {
 public:
  Sparse(const Layer& layer, Pack pack) : layer_(layer), pack_(std::move(pack)) {}

  void prepare(const Operands& operands) override {
    operands_ = operands;
    if (copies_.empty()) copies_.push_back(pack_(layer_));
    while (copies_.size() < layer_.copies(copies_[0].bytes())) copies_.push_back(pack_(layer_));
  }
  std::size_t bytes() const override { return copies_[0].bytes(); }
  std::string kernel() const override { return std::string(losa::backend_name()); }

 protected:
  using Packed = decltype(std::declval<const Pack&>()(std::declval<const Layer&>()));

  Packed& next() { return copies_[turn_++ % copies_.size()]; }
  losa::MatrixView<const float> x() const { return losa::view(operands_.x, operands_.tokens, layer_.in); }
  losa::MatrixView<const float> g() const { return losa::view(operands_.g, operands_.tokens, layer_.out); }
  losa::MatrixView<float> y(std::size_t cols) const { return losa::view(operands_.y, operands_.tokens, cols); }

  Layer layer_;
  Operands operands_;
  std::vector<Packed> copies_;

 private:
  Pack pack_;
  std::size_t turn_ = 0;
};

template <class Pack>
struct Product : Sparse<Pack> {
  using Sparse<Pack>::Sparse;
  void run() override { losa::spmm(this->next(), this->x(), this->y(this->layer_.out), *this->layer_.pool); }
};

template <class Pack>
struct InputGradient : Sparse<Pack> {
  using Sparse<Pack>::Sparse;
  void run() override { losa::spmm_transposed(this->next(), this->g(), this->y(this->layer_.in), *this->layer_.pool); }
};

template <class Pack>
struct WeightGradient : Sparse<Pack> {
  using Sparse<Pack>::Sparse;
  void run() override {
    last_ = &this->next();
    losa::sddmm(this->g(), this->x(), *last_, *this->layer_.pool);
  }
  void fetch() override { last_->to_dense(losa::view(this->operands_.y, this->layer_.out, this->layer_.in)); }

 private:
  typename Sparse<Pack>::Packed* last_ = nullptr;
};

template <template <class> class Kind, class Pack>
Entry entry(Op op, const char* type, const char* format, Pack pack) {
  return {.name = std::string("losa ") + type,
          .type = type,
          .format = format,
          .sparse = true,
          .op = op,
          .make = [pack](const Layer& layer) { return std::make_unique<Kind<Pack>>(layer, pack); }};
}

template <class T>
auto bitmask = [](const Layer& layer) { return losa::pack_as<T>(weight(layer), *layer.mask, *layer.pool); };
template <class T>
auto integers = [](const Layer& layer) { return losa::quantize<T>(bitmask<float>(layer)); };
template <class T>
auto list = [](const Layer& layer) { return losa::ListMatrix<T>(bitmask<float>(layer)); };

}  // namespace

void add_losa(Field& field) {
  field.libraries.push_back({.name = "losa", .version = LOSA_VERSION_STRING, .absent = {}});
  // A new format or value type is one line here: pack it, and losa::spmm multiplies it.
  for (Entry& e : std::vector<Entry>{
           entry<Product>(Op::product, "f32", "bitmask", bitmask<float>),
           entry<Product>(Op::product, "bf16", "bitmask", bitmask<losa::bf16>),
           entry<Product>(Op::product, "f16", "bitmask", bitmask<losa::f16>),
           entry<Product>(Op::product, "int8", "bitmask", integers<losa::Int8>),
           entry<Product>(Op::product, "int4", "bitmask", integers<losa::Int4>),
           entry<Product>(Op::product, "f32", "list", list<float>),
           entry<Product>(Op::product, "bf16", "list", list<losa::bf16>),
           entry<Product>(Op::product, "f16", "list", list<losa::f16>),
           entry<Product>(Op::product, "int8", "list", list<losa::Int8>),
           entry<InputGradient>(Op::dx, "f32", "bitmask", bitmask<float>),
           entry<WeightGradient>(Op::sddmm, "f32", "bitmask", bitmask<float>),
       })
    field.entries.push_back(std::move(e));
}

}  // namespace compare
