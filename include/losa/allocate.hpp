#pragma once
// Everything in losa/allocate: sparsity per layer, rank per block, schedules over the steps.
