#pragma once
// Everything in losa/mask: scores and policies that choose which weights stay.
