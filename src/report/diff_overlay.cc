#include "report/diff_overlay.h"

#include <cmath>

#include "report/overlay.h"

namespace paritrace {

nlohmann::ordered_json DiffToOverlay(const DiffResult& diff) {
  Overlay overlay;
  for (const SiteDiff& site : diff.sites) {
    if (!site.compared) continue;
    const double nmse = site.estimate ? site.estimate->nmse.value : site.stats.Nmse();
    const bool equal = site.status == SiteStatus::kIdentical;
    const double value = equal ? 0 : site.stats.mismatches > 0 ? kMostOverlaid : std::sqrt(nmse) / site.allowed;
    overlay.Add({site.subject_name, site.reference_name, site.site}, value, site.status == SiteStatus::kDiverged);
  }
  return overlay.ToJson("paritrace: difference over what rounding explains", 1);
}

}  // namespace paritrace
