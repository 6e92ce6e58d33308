// oneDNN: its matmul and its inner product, the weights in the layout that it asks for.

#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "../peers.hpp"

namespace compare {
namespace {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;
using Descriptor = dnnl::memory::desc;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}
dnnl::stream& stream() {
  static dnnl::stream in_order(engine());
  return in_order;
}

#if DNNL_VERSION_MAJOR >= 3
dnnl::matmul::primitive_desc matmul_for(const Descriptor& x, const Descriptor& w, const Descriptor& y) {
  return {engine(), x, w, y};
}
dnnl::inner_product_forward::primitive_desc inner_product_for(const Descriptor& x, const Descriptor& w,
                                                              const Descriptor& y) {
  return {engine(), dnnl::prop_kind::forward_inference, x, w, y};
}
#else
dnnl::matmul::primitive_desc matmul_for(const Descriptor& x, const Descriptor& w, const Descriptor& y) {
  return {dnnl::matmul::desc(x, w, y), engine()};
}
dnnl::inner_product_forward::primitive_desc inner_product_for(const Descriptor& x, const Descriptor& w,
                                                              const Descriptor& y) {
  return {dnnl::inner_product_forward::desc(dnnl::prop_kind::forward_inference, x, w, y), engine()};
}
#endif

class DnnlProduct : public Contender {
 public:
  DnnlProduct(const Layer& layer, Type type, bool inner_product)
      : layer_(layer), type_(type), inner_product_(inner_product) {}

  void prepare(const Operands& operands) override {
    const auto tokens = static_cast<dnnl::memory::dim>(operands.tokens);
    const auto out = static_cast<dnnl::memory::dim>(layer_.out);
    const auto in = static_cast<dnnl::memory::dim>(layer_.in);
    const Descriptor x({tokens, in}, type_, Tag::ab);
    const Descriptor y({tokens, out}, Type::f32, Tag::ab);
    const dnnl::memory::dims w = inner_product_ ? dnnl::memory::dims{out, in} : dnnl::memory::dims{in, out};
    Descriptor wanted;
    try {
      if (inner_product_) {
        const auto found = inner_product_for(x, Descriptor(w, type_, Tag::any), y);
        take(found, dnnl::inner_product_forward(found));
        wanted = found.weights_desc();
      } else {
        const auto found = matmul_for(x, Descriptor(w, type_, Tag::any), y);
        take(found, dnnl::matmul(found));
        wanted = found.weights_desc();
      }
    } catch (const dnnl::error& e) {
      throw NotHere(e.what());
    }
    if (copies_.empty() || copies_[0].get_desc() != wanted)
      make_copies(Descriptor(w, Type::f32, inner_product_ ? Tag::ab : Tag::ba), wanted);
    x_ = dnnl::memory(Descriptor({tokens, in}, Type::f32, Tag::ab), engine(), const_cast<float*>(operands.x));
    y_ = dnnl::memory(y, engine(), operands.y);
    if (type_ != Type::f32) {
      narrow_ = dnnl::memory(x, engine());
      narrowing_ = dnnl::reorder(x_, narrow_);
    }
  }
  void run() override {
    if (type_ != Type::f32) narrowing_.execute(stream(), x_, narrow_);
    primitive_.execute(stream(), {{DNNL_ARG_SRC, type_ == Type::f32 ? x_ : narrow_},
                                  {DNNL_ARG_WEIGHTS, copies_[turn_++ % copies_.size()]},
                                  {DNNL_ARG_DST, y_}});
    stream().wait();
  }
  std::size_t bytes() const override { return copies_[0].get_desc().get_size(); }
  std::string kernel() const override { return kernel_; }

 private:
  template <class Found, class Primitive>
  void take(const Found& found, Primitive primitive) {
    kernel_ = found.impl_info_str();
    // Its plain loops stand in where it has no kernel; nobody would run them.
    if (kernel_.find("ref") != std::string::npos) throw NotHere("only " + kernel_);
    primitive_ = std::move(primitive);
  }

  void make_copies(const Descriptor& given, const Descriptor& wanted) {
    copies_.clear();
    dnnl::memory source(given, engine(), const_cast<float*>(layer_.weight));
    while (copies_.size() < layer_.copies(wanted.get_size())) {
      copies_.emplace_back(wanted, engine());
      dnnl::reorder(source, copies_.back()).execute(stream(), source, copies_.back());
    }
    stream().wait();
  }

  Layer layer_;
  Type type_;
  bool inner_product_;
  std::string kernel_;
  dnnl::primitive primitive_;
  dnnl::reorder narrowing_;
  dnnl::memory x_, narrow_, y_;
  std::vector<dnnl::memory> copies_;
  std::size_t turn_ = 0;
};

std::string effective_isa() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      return "isa " + std::to_string(static_cast<int>(dnnl::get_effective_cpu_isa()));
  }
}

}  // namespace

void add_onednn(Field& field) {
  const dnnl_version_t* v = dnnl_version();
  const std::string version = std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
                              std::to_string(v->patch) + " " + effective_isa();
  field.libraries.push_back({.name = "oneDNN", .version = version, .absent = {}});
  for (bool inner_product : {false, true})
    for (Type type : {Type::f32, Type::bf16}) {
      const std::string value = type == Type::f32 ? "f32" : "bf16";
      field.entries.push_back(
          {.name = std::string("oneDNN ") + (inner_product ? "ip " : "matmul ") + value,
           .type = value,
           .format = "dense, packed",
           .make = [=](const Layer& layer) { return std::make_unique<DnnlProduct>(layer, type, inner_product); }});
    }
}

}  // namespace compare
