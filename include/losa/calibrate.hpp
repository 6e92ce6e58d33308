#pragma once
// Everything in losa/calibrate: statistics that take activations batch by batch and merge across shards.
