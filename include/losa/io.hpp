#pragma once
// Everything in losa/io: safetensors in and out, compressed sparse checkpoints, saved state. Needs nlohmann-json.

#include <losa/io/adapter_file.hpp>
#include <losa/io/atomic_file.hpp>
#include <losa/io/compressed.hpp>
#include <losa/io/compressed_config.hpp>
#include <losa/io/compressed_names.hpp>
#include <losa/io/directory_hints.hpp>
#include <losa/io/dtype.hpp>
#include <losa/io/file_kind.hpp>
#include <losa/io/file_services.hpp>
#include <losa/io/json_document.hpp>
#include <losa/io/json_events.hpp>
#include <losa/io/mapped_file.hpp>
#include <losa/io/safetensors_file.hpp>
#include <losa/io/safetensors_writer.hpp>
#include <losa/io/scratch_file.hpp>
#include <losa/io/sharded_checkpoint.hpp>
#include <losa/io/state_file.hpp>
#include <losa/io/tensor.hpp>
