// What the environment asks of a capture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trace/trace_writer.h"

namespace paritrace {

struct CaptureSettings {
  std::string directory;  // "": off
  TraceWriter::Mode mode = TraceWriter::Mode::kFull;
  std::string sites, steps;  // as SiteSelection and StepSelection read them
  bool overwrite = false;
  std::uint64_t buffer_bytes = 0;
  std::optional<int> rank;  // nullopt: no launcher says
};

// Reads PARITRACE_* as include/paritrace/capture.h describes them. The rank is PARITRACE_RANK, or what torchrun, Open MPI,
// MPICH or Slurm give their processes: RANK, OMPI_COMM_WORLD_RANK, PMI_RANK, SLURM_PROCID.
// Errors: UsageError naming the variable, what was expected and what was found.
[[nodiscard]] CaptureSettings ReadCaptureSettings();

}  // namespace paritrace
