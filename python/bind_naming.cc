// trace/naming.h for Python.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bind_core.h"
#include "trace/naming.h"

namespace nb = nanobind;
using namespace nb::literals;

void paritrace::BindNaming(nb::module_& module) {
  module.def("site_of", &SiteOf, "engine"_a, "name"_a,
             "The site that `engine` (\"hf\", \"llamacpp\", ...; \"\" tries all rule files) means by `name`, or None.");
  module.def("is_site", &IsSite, "name"_a, "True for a name that is itself a site: \"layers.3.attn.q_rope\".");
}
