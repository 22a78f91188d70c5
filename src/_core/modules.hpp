// The parts of mpihpc._core.
#pragma once

#include <nanobind/nanobind.h>

namespace mpihpc {

void bind_stencils(nanobind::module_ &m);
void bind_sums(nanobind::module_ &m);
void bind_boxes(nanobind::module_ &m);
void bind_products(nanobind::module_ &m);

}  // namespace mpihpc
