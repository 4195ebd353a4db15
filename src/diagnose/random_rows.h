// Are rows of numbers draws from one random distribution? What the outputs of a weight look like that was never loaded.
#pragma once

#include <span>
#include <vector>

namespace paritrace {

using Rows = std::vector<std::vector<double>>;  // [tokens, features]

inline constexpr double kSigmas = 5;  // of a statistic's own spread under the hypothesis

[[nodiscard]] double Dot(std::span<const double> a, std::span<const double> b);

// Over all values; 0 where one side is zero throughout.
[[nodiscard]] double Correlation(const Rows& a, const Rows& b);

void Subtract(std::vector<double>& from, const std::vector<double>& row, double factor);

// Gram-Schmidt over the inputs, with the same steps applied to the outputs of each: for a random matrix these are then
// independent draws of one size. Inputs that add little of their own are left out: their rounding would be blown up.
void Whiten(Rows& inputs, std::vector<Rows*> outputs);

// True if whitened outputs look like independent draws of one size.
[[nodiscard]] bool LooksRandom(const Rows& rows, double variance);

// Channels of `recorded` that are some channel of `right`: a reordering of rows, not another weight.
[[nodiscard]] bool IsReordered(const Rows& recorded, const Rows& right);

}  // namespace paritrace
