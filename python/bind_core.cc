// The extension module paritrace._core: the trace library as the Python adapters see it.
// One file binds one public header; this one only puts them together and turns our errors into Python's.
#include "bind_core.h"

#include <exception>

#include "core/cpu_target.h"
#include "core/error.h"

namespace nb = nanobind;

NB_MODULE(_core, module) {
  module.attr("__version__") = PARITRACE_VERSION;
  module.def(
      "cpu_target",
      [] {
        switch (paritrace::ActiveCpuTarget()) {
          case paritrace::CpuTarget::kAvx512: return "AVX-512";
          case paritrace::CpuTarget::kAvx2: return "AVX2";
          case paritrace::CpuTarget::kBaseline: break;
        }
        return "baseline";
      },
      "The instruction set that the hot loops use on this CPU.");
  // The one line that the command prints is the exception's text, so that a script sees the same words.
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const paritrace::FormatError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const paritrace::UsageError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const paritrace::IncomparableError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const paritrace::InternalError& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
  });
  paritrace::BindNaming(module);
  paritrace::BindTraceWriter(module);
  paritrace::BindTrace(module);
  paritrace::BindTokens(module);
  paritrace::BindReport(module);
  paritrace::BindDiagnosis(module);
}
