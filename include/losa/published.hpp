#pragma once
// Everything in losa/published: the counting and budget rules of the published implementation, behind the same
// concepts.
