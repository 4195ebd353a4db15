// The parts of the extension module; each bind_*.cc defines one.
#pragma once

#include <nanobind/nanobind.h>

namespace paritrace {

void BindNaming(nanobind::module_& module);       // trace/naming.h
void BindTraceWriter(nanobind::module_& module);  // trace/trace_writer.h
void BindTrace(nanobind::module_& module);        // trace/trace.h
void BindTokens(nanobind::module_& module);       // compare/tokens.h
void BindReport(nanobind::module_& module);       // report/document.h
void BindDiagnosis(nanobind::module_& module);    // diagnose/site_stats.h, report/diagnosis_*.h

}  // namespace paritrace
