#pragma once
// Everything in losa/adapt: Algorithm 1 (LoSA) over any engine that models a small concept.
