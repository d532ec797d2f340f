// Drafters and acceptors written in Python, for experiments. Those that ship are C++.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "../core/engine.h"

namespace farthing {

// Wraps any object with the methods of farthing.runtime.speculation.Drafter or Acceptor.
std::shared_ptr<Drafter> drafter_of(nanobind::object object);
std::shared_ptr<Acceptor> acceptor_of(nanobind::object object);

SpeculationOptions speculation_options(const nanobind::dict& given);
nanobind::dict dict_of(const SpeculationStats& stats);

// Adds the class TextDrafter: a drafter by itself, without a model.
void bind_drafters(nanobind::module_& module);

}  // namespace farthing
