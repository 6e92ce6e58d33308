#pragma once
// Everything in losa/adapter: low-rank adapters under a mask, their optimiser, merge and resize.
