// ggml, the library under llama.cpp: a graph of one product for each copy of the weights. Weights lie in the buffer
// that its CPU backend prefers for their type, as llama.cpp puts them there: Q4_0 is repacked where the machine has a
// kernel.

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <cstdint>
#include <vector>

#include "../peers.hpp"

namespace compare {
namespace {

template <auto function>
struct Freer {
  template <class T>
  void operator()(T* p) const {
    function(p);
  }
};
using Context = std::unique_ptr<ggml_context, Freer<ggml_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Freer<ggml_backend_buffer_free>>;

/// One backend whose threads sleep when idle, for all contenders of this library.
ggml_backend_t backend(std::size_t threads) {
  static const ggml_backend_t shared = [threads] {
    ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(threads));
    params.poll = 0;
    const ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, static_cast<int>(threads));
    ggml_backend_cpu_set_threadpool(cpu, ggml_threadpool_new(&params));
    return cpu;
  }();
  return shared;
}

/// The layout that weights were repacked into last, "q4_0_8x8", which ggml only tells its log.
std::string& last_repacking() {
  static std::string layout;
  return layout;
}
void read_log(ggml_log_level, const char* text, void*) {
  const std::string line = text;
  const std::string before = "repack: repack tensor ";
  if (!line.starts_with(before)) return;
  last_repacking() = line.substr(line.rfind(' ') + 1);
  last_repacking().erase(last_repacking().find_last_not_of('\n') + 1);
}

Context context(std::size_t tensors) {
  return Context(ggml_init({.mem_size = tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false),
                            .mem_buffer = nullptr,
                            .no_alloc = true}));
}

/// The first of the backend's special buffer types that can multiply by `weight`, else the plain one.
ggml_backend_buffer_type_t preferred_buffer(ggml_tensor* weight, const ggml_tensor* product) {
  const ggml_backend_dev_t device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts"));
  if (extra != nullptr)
    for (ggml_backend_buffer_type_t* type = extra(device); type != nullptr && *type != nullptr; ++type) {
      const Buffer empty(ggml_backend_buft_alloc_buffer(*type, 0));
      weight->buffer = empty.get();
      const bool fits = ggml_backend_dev_supports_op(device, product);
      weight->buffer = nullptr;
      if (fits) return *type;
    }
  return ggml_backend_cpu_buffer_type();
}

class GgmlProduct : public Contender {
 public:
  GgmlProduct(const Layer& layer, ggml_type type) : layer_(layer), type_(type) {
    const auto block = static_cast<std::size_t>(ggml_blck_size(type));
    if (layer.in % block != 0) throw NotHere("columns must be a multiple of " + std::to_string(block));
  }

  void prepare(const Operands& operands) override {
    if (copies_.empty()) make_copies();
    graphs_.clear();
    for (Copy& copy : copies_) {
      Context c = context(2);
      ggml_tensor* x = input(c.get(), operands.tokens);
      x->data = const_cast<float*>(operands.x);
      ggml_tensor* y = ggml_mul_mat(c.get(), copy.weight, x);
      y->data = operands.y;
      ggml_cgraph* graph = ggml_new_graph_custom(c.get(), 8, false);
      ggml_build_forward_expand(graph, y);
      graphs_.push_back({std::move(c), graph});
    }
  }
  void run() override {
    ggml_backend_graph_compute(backend(layer_.threads()), graphs_[turn_++ % graphs_.size()].graph);
  }
  std::size_t bytes() const override { return ggml_row_size(type_, static_cast<std::int64_t>(layer_.in)) * layer_.out; }
  std::string kernel() const override { return kernel_; }

 private:
  struct Copy {
    Context context;
    Buffer buffer;
    ggml_tensor* weight;
  };
  struct Graph {
    Context context;
    ggml_cgraph* graph;
  };

  ggml_tensor* input(ggml_context* c, std::size_t tokens) const {
    return ggml_new_tensor_2d(c, GGML_TYPE_F32, static_cast<std::int64_t>(layer_.in),
                              static_cast<std::int64_t>(tokens));
  }
  ggml_tensor* weight(ggml_context* c) const {
    return ggml_new_tensor_2d(c, type_, static_cast<std::int64_t>(layer_.in), static_cast<std::int64_t>(layer_.out));
  }

  void make_copies() {
    std::vector<std::uint8_t> narrow(bytes());
    ggml_quantize_chunk(type_, layer_.weight, narrow.data(), 0, static_cast<std::int64_t>(layer_.out),
                        static_cast<std::int64_t>(layer_.in), nullptr);
    {
      const Context c = context(3);
      ggml_tensor* w = weight(c.get());
      buffer_type_ = preferred_buffer(w, ggml_mul_mat(c.get(), w, input(c.get(), 1)));
    }
    last_repacking().clear();
    while (copies_.size() < layer_.copies(bytes())) {
      Copy copy{context(1), {}, nullptr};
      copy.weight = weight(copy.context.get());
      copy.buffer.reset(
          ggml_backend_buft_alloc_buffer(buffer_type_, ggml_backend_buft_get_alloc_size(buffer_type_, copy.weight)));
      if (!copy.buffer) throw std::bad_alloc();
      ggml_backend_tensor_alloc(copy.buffer.get(), copy.weight, ggml_backend_buffer_get_base(copy.buffer.get()));
      ggml_backend_tensor_set(copy.weight, narrow.data(), 0, narrow.size());
      copies_.push_back(std::move(copy));
    }
    kernel_ = std::string(ggml_backend_buft_name(buffer_type_)) + " " + last_repacking();
    kernel_.erase(kernel_.find_last_not_of(' ') + 1);
  }

  Layer layer_;
  ggml_type type_;
  ggml_backend_buffer_type_t buffer_type_ = nullptr;
  std::string kernel_;
  std::vector<Copy> copies_;
  std::vector<Graph> graphs_;
  std::size_t turn_ = 0;
};

/// "AVX2 FMA F16C …": what this build of ggml uses.
std::string features() {
  std::string names;
  const auto get = reinterpret_cast<ggml_backend_get_features_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_get_features"));
  if (get == nullptr) return names;
  for (const ggml_backend_feature* f = get(ggml_backend_cpu_reg()); f->name != nullptr; ++f)
    names += std::string(" ") + f->name;
  return names;
}

}  // namespace

void add_ggml(Field& field) {
  ggml_log_set(read_log, nullptr);
  field.libraries.push_back({.name = "ggml", .version = std::string(ggml_version()) + features(), .absent = {}});
  struct Kind {
    const char* name;
    const char* type;
    ggml_type value;
  };
  for (const Kind& kind : {Kind{"ggml f32", "f32", GGML_TYPE_F32}, Kind{"ggml f16", "f16", GGML_TYPE_F16},
                           Kind{"ggml bf16", "bf16", GGML_TYPE_BF16}, Kind{"ggml Q8_0", "int8", GGML_TYPE_Q8_0},
                           Kind{"ggml Q4_0", "int4", GGML_TYPE_Q4_0}})
    field.entries.push_back({.name = kind.name, .type = kind.type, .format = "dense", .make = [kind](const Layer& l) {
                               return std::make_unique<GgmlProduct>(l, kind.value);
                             }});
}

}  // namespace compare
