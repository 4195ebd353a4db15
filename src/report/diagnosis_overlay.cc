#include "report/diagnosis_overlay.h"

#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "report/overlay.h"

namespace paritrace {

nlohmann::ordered_json DiagnosisToOverlay(const Diagnosis& diagnosis, const Trace& subject) {
  std::set<std::pair<int, std::string_view>> blamed;
  for (const Defect& defect : diagnosis.defects) {
    if (defect.side == "subject") blamed.emplace(defect.step, defect.site);
  }
  Overlay overlay;
  const auto add = [&](int step, const std::string& site, double value, bool is_blamed) {
    const TraceEntry* entry = subject.Find(step, site);
    overlay.Add({entry == nullptr ? std::string_view() : std::string_view(entry->name), site}, value, is_blamed);
  };
  for (const NoiseRow& row : diagnosis.noise) {
    const bool is_blamed = blamed.erase({row.step, row.site}) > 0;
    if (row.judged || is_blamed) add(row.step, row.site, row.ratio, is_blamed);
  }
  for (const Defect& defect : diagnosis.defects) {  // sites whose noise could not be told: another shape, other experts
    if (defect.side == "subject" && blamed.contains({defect.step, defect.site}))
      add(defect.step, defect.site, defect.ratio, true);
  }
  return overlay.ToJson("paritrace: error over noise floor", 4);
}

}  // namespace paritrace
