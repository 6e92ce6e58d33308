#pragma once
// Everything in losa/io: safetensors in and out, compressed sparse checkpoints, saved state. Needs nlohmann-json.
