// Which arithmetic a trace was computed in: what its header says, else what its values show.
#pragma once

#include <string>

#include "diagnose/recording.h"
#include "graph/arithmetic.h"
#include "trace/trace.h"

namespace paritrace {

struct ChosenArithmetic {
  Arithmetic arithmetic;
  bool inferred = false;
  std::string remark;  // for the report; "" mostly
};

// asked: the user's choice, "" for none. Errors: UsageError if `asked` is no policy of ours.
[[nodiscard]] ChosenArithmetic ChooseArithmetic(const std::string& asked, const Trace& trace,
                                                const Recording& recording, const Graph& graph);

// llama.cpp rounds activations to the type of the weight it multiplies with. Where MODEL is a Hugging Face folder, its
// files do not say which type the subject's own file had: the one that explains the first recorded product best is taken.
void ChooseDotWeight(const Graph& graph, const Recording& recording, Arithmetic& arithmetic);

}  // namespace paritrace
