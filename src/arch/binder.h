// Finds a model's weights, checks their shapes against the config, and adds them to the graph.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "arch/model.h"
#include "graph/graph.h"

namespace paritrace {

// What a weight is in the graph: the site it belongs to without its layer, its layer, its expert.
struct WeightPlace {
  std::string role;
  int layer = kAbsent;
  int expert = kAbsent;
};

// Rows [first, first + shape[0]) of a tensor of any rank seen as a matrix of rows as long as its last axis; shape: [rows, columns]
// or [rows] of a vector. Errors: InternalError if they are outside the tensor or cut a block.
[[nodiscard]] TensorView RowsOf(const TensorView& tensor, std::int64_t first, const Shape& shape);

class Binder {
 public:
  // A weight's name in the file, without ".weight" or ".bias"; layer kAbsent for those outside the layers.
  using Namer = std::function<std::string(std::string_view role, int layer)>;

  // All must outlive the binder.
  Binder(const ModelSource& source, Graph& graph, Namer name)
      : source_(source), graph_(graph), name_(std::move(name)) {}

  [[nodiscard]] const ModelSource& source() const { return source_; }
  [[nodiscard]] Graph& graph() { return graph_; }
  [[nodiscard]] std::string NameOf(std::string_view role, int layer) const { return name_(role, layer); }

  // The weight of a role. Errors: FormatError if it is missing or has another shape.
  WeightId Need(std::string_view role, int layer, const Shape& shape);
  // kAbsent if the file has no such bias.
  WeightId Bias(std::string_view role, int layer, std::int64_t width);

  // The tensor of that very name. Errors: as Need.
  [[nodiscard]] const TensorView& Tensor(const std::string& name, const Shape& shape) const;
  WeightId Add(const TensorView& tensor, const WeightPlace& place);

 private:
  const ModelSource& source_;
  Graph& graph_;
  Namer name_;
};

}  // namespace paritrace
