#pragma once
// Adapters and masks on disk, unmerged. Per linear layer NAME of shape (out, in), with y = x·(M⊙(W + σBA))ᵀ:
//
//   NAME.lora_A  F32 [rank, in]       NAME.lora_B  F32 [out, rank]
//   NAME.mask    U8 [out, ⌈in/8⌉]     bit c % 8 of byte c / 8 of a row = 1: kept; absent where nothing is pruned
//   metadata     NAME.scale = σ, NAME.rank, in decimal digits that give back the same bits
//
//   losa::io::save_adapter("adapter/adapter.safetensors", adapters);        // std::vector<AdapterView>
//   for (const losa::io::SavedAdapter& saved : losa::io::load_adapter("adapter/adapter.safetensors")) ...

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/core/finite.hpp>
#include <losa/core/mask.hpp>
#include <losa/core/view.hpp>
#include <losa/io/compressed.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/safetensors_writer.hpp>

namespace losa::inline v0::io {

/// What is saved of one linear layer. B is given transposed, as the adapters hold it.
struct AdapterView {
  std::string name;
  MatrixView<const float> a;   // (rank, in)
  MatrixView<const float> bt;  // (rank, out)
  double scale = 1;            // σ
  const Mask* mask = nullptr;  // (out, in); null = nothing pruned
};

/// What is loaded of one linear layer.
struct SavedAdapter {
  std::string name;
  std::size_t rank = 0;
  std::size_t in = 0;
  std::size_t out = 0;
  std::vector<float> a = {};   // (rank, in)
  std::vector<float> bt = {};  // (rank, out)
  double scale = 1;
  std::optional<Mask> mask = {};  // (out, in)
};

/// Declares one layer's tensors in a file being written, for put_adapter; of the mask only whether there is one is read
/// (`masked`). Throws ShapeError if the factors do not fit together.
inline void declare_adapter(SafetensorsWriter& writer, const AdapterView& adapter, bool masked) {
  const std::size_t rank = adapter.a.rows;
  const std::size_t out = adapter.bt.cols;
  detail::expect_shape("add_adapter: " + adapter.name, "bt", adapter.bt, rank, out);
  writer.metadata(adapter.name + ".scale", detail::text(adapter.scale));
  writer.metadata(adapter.name + ".rank", detail::text(rank));
  writer.declare(adapter.name + ".lora_A", Dtype::f32, {rank, adapter.a.cols});
  writer.declare(adapter.name + ".lora_B", Dtype::f32, {out, rank});
  if (masked) writer.declare(adapter.name + ".mask", Dtype::u8, {out, detail::mask_row_bytes(adapter.a.cols)});
}

/// Calls put(tensor name, producer) for each tensor of a layer; a producer views what `adapter` does.
/// Throws ShapeError if the mask does not fit the factors.
template <class Function>
void for_each_adapter_tensor(const AdapterView& adapter, Function&& put) {
  const std::size_t out = adapter.bt.cols;
  if (adapter.mask && (adapter.mask->rows() != out || adapter.mask->cols() != adapter.a.cols))
    detail::raise<ShapeError>("add_adapter: ", adapter.name, ": mask must be ", out, " × ", adapter.a.cols, ", got ",
                              adapter.mask->rows(), " × ", adapter.mask->cols());
  put(adapter.name + ".lora_A", [a = adapter.a](TensorSink& sink) {
    for (std::size_t k = 0; k < a.rows; ++k) sink.write(a.row(k));
  });
  put(adapter.name + ".lora_B", [bt = adapter.bt](TensorSink& sink) {
    std::vector<float> row(bt.rows);
    for (std::size_t o = 0; o < bt.cols; ++o) {
      for (std::size_t k = 0; k < bt.rows; ++k) row[k] = bt(k, o);
      sink.write(std::span<const float>(row));
    }
  });
  if (adapter.mask == nullptr) return;
  put(adapter.name + ".mask", [mask = adapter.mask](TensorSink& sink) {
    const std::size_t row_bytes = detail::mask_row_bytes(mask->cols());
    for (std::size_t r = 0; r < mask->rows(); ++r) sink.write(std::as_bytes(mask->row_words(r)).first(row_bytes));
  });
}

/// Writes a declared layer now. Throws FileError, ShapeError.
inline void put_adapter(SafetensorsWriter& writer, const AdapterView& adapter) {
  for_each_adapter_tensor(adapter,
                          [&](const std::string& name, auto producer) { writer.put(name, std::move(producer)); });
}
/// Adds one layer's adapter and mask to a file being written; all that is viewed must outlive its commit().
/// Throws ShapeError if factors and mask do not fit together.
inline void add_adapter(SafetensorsWriter& writer, const AdapterView& adapter) {
  declare_adapter(writer, adapter, adapter.mask != nullptr);
  for_each_adapter_tensor(adapter,
                          [&](const std::string& name, auto producer) { writer.fill(name, std::move(producer)); });
}

/// Writes one file. Throws FileError, ShapeError.
inline void save_adapter(const std::string& path, std::span<const AdapterView> adapters) {
  SafetensorsWriter writer(path);
  for (const AdapterView& adapter : adapters) add_adapter(writer, adapter);
  writer.commit();
}

/// Reads every layer of a file, in the order of their names. Throws FileError if factors, mask and metadata disagree or
/// a value is NaN or Inf.
inline std::vector<SavedAdapter> load_adapter(const SafetensorsFile& file) {
  constexpr std::string_view suffix = ".lora_A";
  std::map<std::string, const Tensor*> layers;
  for (const Tensor& tensor : file.tensors())
    if (tensor.name.ends_with(suffix))
      layers.emplace(tensor.name.substr(0, tensor.name.size() - suffix.size()), &tensor);
  std::vector<SavedAdapter> adapters;
  for (const auto& [name, a] : layers) {
    const Tensor& b = file.at(name + ".lora_B");
    if (a->dtype != Dtype::f32 || a->shape.size() != 2)
      detail::raise_tensor(*a, "must be F32 of shape [rank, in], got ", a->dtype_name, " of shape ",
                           detail::shape_text(a->shape));
    const std::size_t rank = a->shape[0];
    if (b.dtype != Dtype::f32 || b.shape.size() != 2 || b.shape[1] != rank)
      detail::raise_tensor(b, "must be F32 of shape [out, ", rank, "], got ", b.dtype_name, " of shape ",
                           detail::shape_text(b.shape));
    SavedAdapter adapter{.name = name, .rank = rank, .in = a->shape[1], .out = b.shape[0]};
    adapter.a.resize(a->elements());
    read_f32(*a, adapter.a);
    std::vector<float> rows(b.elements());
    read_f32(b, rows);
    adapter.bt.resize(rows.size());
    for (std::size_t k = 0; k < rank && !rows.empty(); ++k)
      for (std::size_t o = 0; o < adapter.out; ++o) adapter.bt[k * adapter.out + o] = rows[o * rank + k];

    const auto scale = file.metadata().find(name + ".scale");
    if (scale == file.metadata().end())
      detail::raise<FileError>(file.path(), ": metadata ", detail::quote_name(name + ".scale"), " is missing");
    const std::string& digits = scale->second;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), adapter.scale);
    if (error != std::errc() || end != digits.data() + digits.size() || !detail::is_finite(adapter.scale))
      detail::raise<FileError>(file.path(), ": metadata ", detail::quote_name(name + ".scale"),
                               " must be a number, got ", detail::quote_name(digits));
    if (const Tensor* mask = file.find(name + ".mask")) {
      const std::vector<std::size_t> shape{adapter.out, detail::mask_row_bytes(adapter.in)};
      if (mask->dtype != Dtype::u8 || mask->shape != shape)
        detail::raise_tensor(*mask, "must be U8 of shape ", detail::shape_text(shape), ", got ", mask->dtype_name,
                             " of shape ", detail::shape_text(mask->shape));
      if (adapter.in == 0 && adapter.out != 0) detail::raise_tensor(*mask, "has rows without columns");
      detail::refuse_bits_past_columns(*mask, adapter.out, adapter.in);
      adapter.mask = detail::mask_from_bytes(adapter.out, adapter.in, mask->bytes);
    }
    adapters.push_back(std::move(adapter));
  }
  return adapters;
}
inline std::vector<SavedAdapter> load_adapter(const std::string& path) { return load_adapter(SafetensorsFile(path)); }

}  // namespace losa::inline v0::io
