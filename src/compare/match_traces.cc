#include "compare/match_traces.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "compare/match_names.h"
#include "compare/tokens.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

using Entries = std::vector<const TraceEntry*>;
using Views = std::vector<std::vector<ContentView>>;
// By tensor of one trace: the others that hold the same values, with their distance.
using Copies = std::vector<std::map<std::size_t, double>>;
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

// Below this, two samples are as equal as samples can be told: the log odds of equal values end here.
constexpr double kEqual = 1e-13;
// As far apart as two unrelated tensors of one size (2), or two that only share a factor or a trend.
constexpr double kUnrelated = 1.0;
// What storage alone changes between copies of one tensor: bf16 rounds by 2^-9 at most, squared, twice.
constexpr double kCopy = 1e-5;
// Where the pairs around agree to e, a pair that differs by more than kJump * e is another tensor; but a function with its
// own approximation (GELU from a table of f16) may differ by up to kAlwaysPossible without leaving a trace in the others.
constexpr double kJump = 30, kAlwaysPossible = 1e-2;
constexpr double kCertain = 0.9, kLeast = 0.05;  // confidence that teaches; that is worth a line in the map
// Where values have diverged, certainty grows from its border, some tensors a round.
constexpr int kRounds = 64;

struct Candidate {
  std::size_t reference = 0, subject = 0;
  double distance = kUnrelated;
  bool known = false;  // false: no values to compare, or values that say nothing
  RowOrder order;
  double score = 0, confidence = 0;
};

// One step of both traces.
class StepMatcher {
 public:
  StepMatcher(Entries reference, Entries subject, const StepRows& reference_rows, const StepRows& subject_rows,
              bool ordered)
      : reference_(std::move(reference)),
        subject_(std::move(subject)),
        ordered_(ordered),
        candidates_(reference_.size()),
        partner_(reference_.size(), kNone),
        names_(Split(reference_), Split(subject_)) {
    reference_views_ = Read(reference_, reference_rows);
    subject_views_ = Read(subject_, subject_rows);
    reference_copies_ = FindCopies(reference_views_);
    subject_copies_ = FindCopies(subject_views_);
    FindCandidates();
    LearnRowOrders();
  }

  std::vector<TraceMatch> Run() {
    // Certain pairs teach order and names, which make more pairs certain.
    std::vector<std::size_t> before;
    for (int round = 0; round < kRounds; ++round) {
      Score();
      before = partner_;
      Choose(kCertain);
      Learn();
      if (partner_ == before) break;
    }
    Score();
    Choose(0);
    std::vector<TraceMatch> pairs;
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      if (partner_[a] != kNone) pairs.push_back(Describe(a));
    }
    return pairs;
  }

 private:
  static std::vector<NameParts> Split(const Entries& entries) {
    std::vector<NameParts> names;
    for (const TraceEntry* entry : entries) names.push_back(SplitName(entry->name));
    return names;
  }

  static Views Read(const Entries& entries, const StepRows& rows) {
    Views views(entries.size());
    ParallelFor(static_cast<std::int64_t>(entries.size()), 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        views[at] = ReadContent(entries[at]->tensor, rows);
      }
    });
    return views;
  }

  static bool SameHash(const TraceEntry& a, const TraceEntry& b) {
    return !a.hash.empty() && a.hash == b.hash && a.tensor.dtype == b.tensor.dtype;
  }

  // Without values on a side only shapes can say which pairs are possible.
  static bool SameShape(const TraceEntry& a, const TraceEntry& b) {
    return WithoutLeadingOnes(a.tensor.shape, 1) == WithoutLeadingOnes(b.tensor.shape, 1);
  }

  void FindCandidates() {
    std::map<ViewKey, std::vector<std::size_t>> at;
    for (std::size_t b = 0; b < subject_.size(); ++b) {
      std::set<ViewKey> keys;
      for (const ContentView& view : subject_views_[b]) keys.insert(KeyOf(view));
      for (const ViewKey& key : keys) at[key].push_back(b);
    }
    ParallelFor(static_cast<std::int64_t>(reference_.size()), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) FindCandidatesOf(static_cast<std::size_t>(i), at);
    });
  }

  void FindCandidatesOf(std::size_t a, const std::map<ViewKey, std::vector<std::size_t>>& at) {
    std::set<std::size_t> possible;
    for (const ContentView& view : reference_views_[a]) {
      const auto found = at.find(KeyOf(view));
      if (found != at.end()) possible.insert(found->second.begin(), found->second.end());
    }
    for (std::size_t b = 0; b < subject_.size(); ++b) {
      const bool values = !reference_views_[a].empty() && !subject_views_[b].empty();
      if (SameHash(*reference_[a], *subject_[b]) || (!values && SameShape(*reference_[a], *subject_[b])))
        possible.insert(b);
    }
    for (const std::size_t b : possible) {
      Candidate candidate;
      candidate.reference = a;
      candidate.subject = b;
      bool fits = SameHash(*reference_[a], *subject_[b]);
      if (fits) {
        candidate.distance = 0;
        candidate.known = true;
      } else if (reference_views_[a].empty() || subject_views_[b].empty()) {
        fits = true;
      }
      for (const ContentView& ours : reference_views_[a]) {
        for (const ContentView& theirs : subject_views_[b]) {
          fits = fits || Comparable(ours, theirs);
          Improve(candidate, ContentDistance(ours, theirs), {});
        }
      }
      if (fits) candidates_[a].push_back(candidate);
    }
  }

  static void Improve(Candidate& candidate, const std::optional<double>& distance, const RowOrder& order) {
    if (!distance || (candidate.known && *distance >= candidate.distance)) return;
    candidate.distance = *distance;
    candidate.known = true;
    candidate.order = order;
  }

  // The same for the tensors of one trace: which of them hold the same values.
  static Copies FindCopies(const Views& views) {
    std::map<ViewKey, std::vector<std::size_t>> at;
    for (std::size_t i = 0; i < views.size(); ++i) {
      for (const ContentView& view : views[i]) {
        auto& bucket = at[KeyOf(view)];
        if (bucket.empty() || bucket.back() != i) bucket.push_back(i);
      }
    }
    Copies copies(views.size());
    ParallelFor(static_cast<std::int64_t>(views.size()), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto one = static_cast<std::size_t>(i);
        for (const ContentView& view : views[one]) {
          for (const std::size_t other : at.at(KeyOf(view))) {
            if (other == one) continue;
            for (const ContentView& theirs : views[other]) {
              const auto distance = ContentDistance(view, theirs);
              if (!distance || *distance > kCopy) continue;
              const auto [known, is_new] = copies[one].emplace(other, *distance);
              if (!is_new) known->second = std::min(known->second, *distance);
            }
          }
        }
      }
    });
    return copies;
  }

  // q and k may stand in another row order: found where sorting a row's values makes two tensors equal that are not, and
  // one head size explains it all. Then every pair of fitting width may be read so.
  void LearnRowOrders() {
    // A wrong order leaves nearly all of the difference; a right one only rounding.
    constexpr double kDecisive = 100, kDifferent = 1e-2;
    std::vector<double> best(reference_.size(), kUnrelated), best_of(subject_.size(), kUnrelated);
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      for (const Candidate& candidate : candidates_[a]) {
        if (!candidate.known) continue;
        best[a] = std::min(best[a], candidate.distance);
        best_of[candidate.subject] = std::min(best_of[candidate.subject], candidate.distance);
      }
    }
    const auto sort = [](const Views& views, const std::vector<double>& distances) {
      Views sorted(views.size());
      for (std::size_t i = 0; i < views.size(); ++i) {
        if (distances[i] < kDifferent) continue;
        for (const ContentView& view : views[i]) sorted[i].push_back(WithSortedRows(view));
      }
      return sorted;
    };
    const Views ours = sort(reference_views_, best), theirs = sort(subject_views_, best_of);
    std::vector<RowOrder> orders;
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      for (const Candidate& candidate : candidates_[a]) {
        const std::size_t b = candidate.subject;
        for (std::size_t i = 0; candidate.known && i < ours[a].size(); ++i) {
          for (std::size_t j = 0; j < theirs[b].size(); ++j) {
            const double limit = candidate.distance / kDecisive;
            const auto sorted = ContentDistance(ours[a][i], theirs[b][j]);
            if (!sorted || *sorted > limit) continue;
            const ContentView &one = reference_views_[a][i], &other = subject_views_[b][j];
            const bool explained = std::any_of(orders.begin(), orders.end(), [&](const RowOrder& order) {
              return ContentDistance(one, other, order).value_or(kUnrelated) <= limit;
            });
            const auto order = explained ? std::nullopt : FindRowOrder(one, other, limit);
            if (order) orders.push_back(*order);
          }
        }
      }
    }
    for (const RowOrder& order : orders) {
      for (std::size_t a = 0; a < reference_.size(); ++a) {
        for (Candidate& candidate : candidates_[a]) {
          for (const ContentView& one : reference_views_[a]) {
            for (const ContentView& other : subject_views_[candidate.subject])
              Improve(candidate, ContentDistance(one, other, order), order);
          }
        }
      }
    }
  }

  static std::optional<RowOrder> FindRowOrder(const ContentView& ours, const ContentView& theirs, double limit) {
    std::optional<RowOrder> found;
    for (const bool subject_is_interleaved : {true, false}) {
      for (std::int64_t head_dim = 4; head_dim <= ours.width; head_dim += 2) {
        const RowOrder order{head_dim, subject_is_interleaved};
        const auto distance = ContentDistance(ours, theirs, order);
        if (!distance || *distance > limit) continue;
        limit = *distance;
        found = order;
      }
    }
    return found;
  }

  // Pairs that are taken as certain, in order of the reference.
  NameEvidence::Pairs Certain() const {
    NameEvidence::Pairs pairs;
    for (std::size_t a = 0; a < partner_.size(); ++a) {
      if (partner_[a] != kNone) pairs.emplace_back(a, partner_[a]);
    }
    return pairs;
  }

  void Learn() {
    anchors_ = Certain();
    names_.Learn(anchors_);
    anchor_of_subject_.assign(subject_.size(), kNone);
    for (const auto& [a, b] : anchors_) anchor_of_subject_[b] = a;
    // How often what runs next on one side runs next on the other: nearly always between two runs of one engine, seldom
    // where one side records many steps of its own between two of the other's.
    double next = 0, both = 0;
    for (std::size_t i = 1; i < anchors_.size(); ++i) {
      if (anchors_[i].first != anchors_[i - 1].first + 1) continue;
      ++next;
      both += anchors_[i].second == anchors_[i - 1].second + 1;
    }
    follow_ = (both + 1) / (next + 4);
  }

  // Log odds from the certain pairs right before and behind on both sides.
  double NeighbourOdds(std::size_t a, std::size_t b) const {
    // Weak evidence where one engine records steps of its own between any two of the other's, and weaker where it speaks
    // against a pair; strong where both have run in step so far.
    const double in_step = std::clamp((follow_ - 0.6) / 0.3, 0.0, 1.0);
    const double most = 1 + 1.5 * in_step, least = 0.3 + 2.2 * in_step;
    if (!ordered_ || anchors_.empty()) return 0;
    const double chance = 1 / static_cast<double>(subject_.size() + 1);
    if (follow_ <= chance) return 0;
    const double agree = std::min(most, std::log(follow_ / chance)),
                 disagree = std::max(-least, std::log((1 - follow_) / (1 - chance)));
    double odds = 0;
    for (const std::size_t step : {std::size_t{1}, kNone}) {  // behind, before
      const std::size_t x = a + step, y = b + step;           // kNone is -1
      const bool ours = x < partner_.size() && partner_[x] != kNone;
      const bool theirs = y < anchor_of_subject_.size() && anchor_of_subject_[y] != kNone;
      if (ours && partner_[x] == y) {
        odds += agree;
      } else if (ours || theirs) {
        odds += disagree;
      }
    }
    return odds;
  }

  struct Neighbours {
    double low = 0, high = 0;      // subject places between which a partner is expected
    double before = 0, after = 0;  // the largest distance of values among the pairs before and behind; < 0: none
  };

  // From the certain pairs around `a`, itself excluded.
  Neighbours Around(std::size_t a) const {
    constexpr std::size_t kPlaces = 3, kLevels = 6;
    Neighbours near{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), -1, -1};
    const auto behind = std::lower_bound(anchors_.begin(), anchors_.end(), std::pair(a, std::size_t{0}));
    const auto look = [&](const std::pair<std::size_t, std::size_t>& anchor, std::size_t count, double& level) {
      const Candidate* candidate = Find(anchor.first, anchor.second);
      if (count <= kLevels && candidate != nullptr && candidate->known) level = std::max(level, candidate->distance);
      if (count > kPlaces) return;
      near.low = std::min(near.low, static_cast<double>(anchor.second));
      near.high = std::max(near.high, static_cast<double>(anchor.second));
    };
    std::size_t count = 0;
    for (auto anchor = behind; anchor != anchors_.begin() && count < kLevels;) look(*--anchor, ++count, near.before);
    const std::size_t found_before = count;
    count = 0;
    for (auto anchor = behind; anchor != anchors_.end() && count < kLevels; ++anchor) {
      if (anchor->first != a) look(*anchor, ++count, near.after);
    }
    const double last = static_cast<double>(subject_.size()) - 1;
    if (found_before == 0) near.low = 0;
    if (count == 0) near.high = last;
    if (found_before == 0 && count == 0) {
      // Nothing is certain: the same share of the way through.
      const double way =
          reference_.size() < 2 ? 0 : static_cast<double>(a) / static_cast<double>(reference_.size() - 1);
      near.low = near.high = way * last;
    }
    return near;
  }

  double OrderOdds(const Neighbours& near, std::size_t b) const {
    constexpr double kMost = 12;
    if (!ordered_) return 0;
    // One entry of the reference may be several of the subject.
    const double stretch = std::max(1.0, static_cast<double>(subject_.size()) / static_cast<double>(reference_.size()));
    const double place = static_cast<double>(b), middle = (near.low + near.high) / 2;
    const double outside = std::max({0.0, near.low - place, place - near.high}) / stretch;
    return -std::min(kMost, outside / 3 + 0.02 * std::fabs(place - middle) / stretch);
  }

  // The distance up to which a pair is likelier than none.
  double Possible(const Neighbours& near) const {
    if (near.before < 0 && near.after < 0) return anchors_.empty() ? 0.1 : kUnrelated;
    const double before = std::max(near.before, kEqual), after = std::max(near.after, kEqual);
    const bool diverges_here = near.after < 0 || (after > 1e4 * before && after > 1e-9);
    if (diverges_here) return kUnrelated;
    return std::clamp(kJump * std::max(before, after), kAlwaysPossible, kUnrelated);
  }

  const Candidate* Find(std::size_t a, std::size_t b) const {
    const auto& row = candidates_[a];
    const auto found = std::lower_bound(
        row.begin(), row.end(), b, [](const Candidate& candidate, std::size_t at) { return candidate.subject < at; });
    return found != row.end() && found->subject == b ? &*found : nullptr;
  }

  // Two tensors of one trace that hold the same, as far as a pair at `distance` can tell.
  static bool IsCopy(const Copies& copies, std::size_t one, std::size_t other, double distance) {
    const auto found = copies[one].find(other);
    return found != copies[one].end() && found->second <= 4 * distance + kEqual;
  }

  // A copy of a tensor whose partner is certain pairs with a copy of that partner or with none.
  bool ContradictsCopies(std::size_t a, std::size_t b) const {
    if (anchor_of_subject_.empty()) return false;
    for (const auto& [copy, distance] : reference_copies_[a]) {
      const std::size_t partner = partner_[copy];
      if (partner != kNone && partner != b && !subject_copies_[b].contains(partner)) return true;
    }
    for (const auto& [copy, distance] : subject_copies_[b]) {
      const std::size_t partner = anchor_of_subject_[copy];
      if (partner != kNone && partner != a && !reference_copies_[a].contains(partner)) return true;
    }
    return false;
  }

  // The rival's end that is not the candidate's has a certain partner: another tensor, with the values of the candidate's
  // end. Whoever has forgotten a step records one tensor under two names, and the second name is still to be paired.
  bool IsSettled(const Candidate& rival, const Candidate& candidate) const {
    if (anchor_of_subject_.empty()) return false;
    if (rival.subject == candidate.subject) {
      const std::size_t partner = partner_[rival.reference];
      return partner != kNone && partner != candidate.subject && subject_copies_[candidate.subject].contains(partner);
    }
    const std::size_t partner = anchor_of_subject_[rival.subject];
    return partner != kNone && partner != candidate.reference &&
           reference_copies_[candidate.reference].contains(partner);
  }

  void Score() {
    std::vector<double> none(reference_.size());
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      const Neighbours near = Around(a);
      none[a] = -std::log(Possible(near));
      for (Candidate& candidate : candidates_[a]) {
        const TraceEntry &ours = *reference_[a], &theirs = *subject_[candidate.subject];
        candidate.score = candidate.known ? -std::log(std::max(candidate.distance, kEqual)) : 0;
        candidate.score += OrderOdds(near, candidate.subject) + NeighbourOdds(a, candidate.subject);
        candidate.score += names_.LogOdds(a, candidate.subject, partner_[a] == candidate.subject);
        // Rules know better than values.
        if (!ours.site.empty() && !theirs.site.empty()) candidate.score += ours.site == theirs.site ? 40 : -40;
        if (!SameShape(ours, theirs)) candidate.score -= 0.25;
        if (ContradictsCopies(a, candidate.subject)) candidate.score -= 1.5;
      }
    }
    // Share of the candidate among all that its row or column holds, copies of its other end left out.
    const auto share = [&](const Candidate& candidate, double none, const std::vector<const Candidate*>& rivals,
                           const auto& is_copy) {
      double all = std::exp(none - candidate.score);
      for (const Candidate* rival : rivals) {
        if (rival == &candidate || (candidate.known && is_copy(*rival)) || IsSettled(*rival, candidate)) continue;
        all += std::exp(rival->score - candidate.score);
        if (all > 100) break;  // hopeless already
      }
      return 1 / (1 + all);
    };
    const auto ranked = [](std::vector<const Candidate*> rivals) {
      std::sort(rivals.begin(), rivals.end(),
                [](const Candidate* x, const Candidate* y) { return x->score > y->score; });
      return rivals;
    };
    std::vector<std::vector<const Candidate*>> columns(subject_.size());
    for (const auto& row : candidates_) {
      for (const Candidate& candidate : row) columns[candidate.subject].push_back(&candidate);
    }
    for (auto& column : columns) column = ranked(std::move(column));
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      std::vector<const Candidate*> row;
      for (const Candidate& candidate : candidates_[a]) row.push_back(&candidate);
      row = ranked(std::move(row));
      for (Candidate& candidate : candidates_[a]) {
        const double distance = candidate.known ? candidate.distance : 0;
        candidate.confidence = share(candidate, none[a], row, [&](const Candidate& rival) {
          return IsCopy(subject_copies_, candidate.subject, rival.subject, distance);
        });
        if (candidate.confidence < kLeast) continue;
        const double down = share(candidate, none[a], columns[candidate.subject], [&](const Candidate& rival) {
          return IsCopy(reference_copies_, a, rival.reference, distance);
        });
        candidate.confidence = std::min(candidate.confidence, down);
      }
    }
  }

  // Best score first; each tensor once. Copies of one tensor cannot be told apart by score: they pair in order.
  void Choose(double least_confidence) {
    ChooseBest(least_confidence);
    std::vector<bool> done(reference_.size());
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      if (!done[a] && partner_[a] != kNone) PairCopiesInOrder(a, done);
    }
  }

  // `one`, its copies at the precision of `distance`, ascending.
  static std::vector<std::size_t> GroupOf(const Copies& copies, std::size_t one, double distance) {
    std::vector<std::size_t> group = {one};
    for (const auto& [other, difference] : copies[one]) {
      if (difference <= 4 * distance + kEqual) group.push_back(other);
    }
    std::sort(group.begin(), group.end());
    return group;
  }

  void PairCopiesInOrder(std::size_t first, std::vector<bool>& done) {
    const Candidate& found = *Find(first, partner_[first]);
    if (!found.known) return;
    std::vector<std::size_t> ours = GroupOf(reference_copies_, first, found.distance);
    std::vector<std::size_t> theirs = GroupOf(subject_copies_, partner_[first], found.distance);
    // Only those that are free or paired within the two groups.
    const auto partner_of = [&](std::size_t b) {
      const auto at = std::find(partner_.begin(), partner_.end(), b);
      return at == partner_.end() ? kNone : static_cast<std::size_t>(at - partner_.begin());
    };
    const auto in = [](const std::vector<std::size_t>& group, std::size_t one) {
      return std::binary_search(group.begin(), group.end(), one);
    };
    const std::vector<std::size_t> our_group = ours, their_group = theirs;
    std::erase_if(ours, [&](std::size_t a) { return partner_[a] != kNone && !in(their_group, partner_[a]); });
    std::erase_if(theirs, [&](std::size_t b) { return partner_of(b) != kNone && !in(our_group, partner_of(b)); });
    for (const std::size_t a : ours) done[a] = true;
    if (ours.size() * theirs.size() <= 1) return;

    // The best sum of names and shapes over all ways to pair as many as possible without crossing; of equal ones the
    // earliest. best[i][j]: of ours from i on with theirs from j on.
    const std::size_t rows = ours.size(), columns = theirs.size();
    constexpr double kPair = 1000;  // more pairs before better pairs
    std::vector<double> best((rows + 1) * (columns + 1), 0.0);
    const auto at = [&](std::size_t i, std::size_t j) -> double& { return best[i * (columns + 1) + j]; };
    const auto gain = [&](std::size_t i, std::size_t j) {
      const Candidate* candidate = Find(ours[i], theirs[j]);
      if (candidate == nullptr) return -kPair;
      const bool same_shape = SameShape(*reference_[ours[i]], *subject_[theirs[j]]);
      return kPair + names_.LogOdds(ours[i], theirs[j], false) + (same_shape ? 0.5 : 0.0);
    };
    for (std::size_t i = rows; i-- > 0;) {
      for (std::size_t j = columns; j-- > 0;)
        at(i, j) = std::max({at(i + 1, j), at(i, j + 1), gain(i, j) + at(i + 1, j + 1)});
    }
    for (const std::size_t a : ours) partner_[a] = kNone;
    for (std::size_t i = 0, j = 0; i < rows && j < columns;) {
      if (gain(i, j) + at(i + 1, j + 1) >= at(i, j)) {
        partner_[ours[i++]] = theirs[j++];
      } else if (at(i, j + 1) >= at(i + 1, j)) {
        ++j;
      } else {
        ++i;
      }
    }
  }

  void ChooseBest(double least_confidence) {
    std::vector<std::tuple<double, std::size_t, std::size_t, std::size_t>> ranking;  // -score, places, a, b
    for (std::size_t a = 0; a < reference_.size(); ++a) {
      for (const Candidate& candidate : candidates_[a]) {
        if (candidate.confidence >= std::max(least_confidence, kLeast))
          ranking.emplace_back(-candidate.score, a + candidate.subject, a, candidate.subject);
      }
    }
    std::sort(ranking.begin(), ranking.end());
    partner_.assign(reference_.size(), kNone);
    std::vector<bool> taken(subject_.size());
    for (const auto& [score, places, a, b] : ranking) {
      if (partner_[a] != kNone || taken[b]) continue;
      partner_[a] = b;
      taken[b] = true;
    }
  }

  TraceMatch Describe(std::size_t a) const {
    const std::size_t b = partner_[a];
    const Candidate& chosen = *Find(a, b);
    const TraceEntry &ours = *reference_[a], &theirs = *subject_[b];
    TraceMatch match;
    match.reference = &ours;
    match.subject = &theirs;
    match.by_site = !ours.site.empty() && ours.site == theirs.site;
    match.confidence = match.by_site ? 1 : chosen.confidence;
    if (chosen.known) match.distance = chosen.distance;
    match.row_order = chosen.order;
    std::vector<std::string> copies;
    const auto rival = [&](double distance) { match.rival = std::min(match.rival.value_or(distance), distance); };
    for (const Candidate& other : candidates_[a]) {
      if (other.subject == b || !other.known || !chosen.known) continue;
      if (IsCopy(subject_copies_, b, other.subject, chosen.distance)) {
        copies.push_back(subject_[other.subject]->name);
      } else {
        rival(other.distance);
      }
    }
    for (std::size_t other = 0; other < reference_.size(); ++other) {
      const Candidate* candidate = other == a ? nullptr : Find(other, b);
      if (candidate == nullptr || !candidate->known || !chosen.known) continue;
      if (!IsCopy(reference_copies_, a, other, chosen.distance)) rival(candidate->distance);
    }
    match.evidence = Explain(a, chosen, match, copies);
    return match;
  }

  std::string Explain(std::size_t a, const Candidate& chosen, const TraceMatch& match,
                      const std::vector<std::string>& copies) const {
    if (match.by_site) return "the same site";
    std::string text;
    if (!chosen.known) {
      text = "no values to compare; shapes fit";
    } else if (chosen.distance == 0) {
      text = "values equal";
    } else {
      text = fmt::format("values differ by {:.1e}", chosen.distance);
    }
    if (match.rival) text += fmt::format(" (next best {:.1e})", *match.rival);
    if (chosen.order.head_dim > 0) {
      text += fmt::format(", {} rows interleaved in heads of {}",
                          chosen.order.subject_is_interleaved ? "subject" : "reference", chosen.order.head_dim);
    }
    if (!SameShape(*match.reference, *match.subject))
      text += fmt::format(", shapes {} and {}", ToString(match.reference->tensor.shape),
                          ToString(match.subject->tensor.shape));
    // One unit of log odds each: what did not sway the choice is not named.
    const double names = names_.LogOdds(a, chosen.subject, true), order = OrderOdds(Around(a), chosen.subject);
    if (names > 1) text += ", names agree";
    if (names < -1) text += ", names do not";
    if (order < -1) text += ", out of order";
    if (!copies.empty())
      text += fmt::format(", {} more with these values: {}{}", copies.size(), copies.front(),
                          copies.size() > 1 ? ", …" : "");
    return text;
  }

  Entries reference_, subject_;
  bool ordered_;
  Views reference_views_, subject_views_;
  Copies reference_copies_, subject_copies_;
  std::vector<std::vector<Candidate>> candidates_;  // by reference; ascending subject
  std::vector<std::size_t> partner_;                // by reference
  NameEvidence names_;
  NameEvidence::Pairs anchors_;
  std::vector<std::size_t> anchor_of_subject_;  // by subject; kNone: in no certain pair
  double follow_ = 0;                           // share of certain pairs that follow each other on both sides
};

// A name and which of its occurrences within a step: what a map can name.
using Key = std::pair<std::string, int>;

std::map<const TraceEntry*, Key> KeysOf(const Trace& trace) {
  std::map<const TraceEntry*, Key> keys;
  std::map<std::pair<std::string, int>, int> seen;
  for (const TraceEntry& entry : trace.entries) keys[&entry] = {entry.name, seen[{entry.name, entry.step}]++};
  return keys;
}

struct Span {
  std::int64_t start = 0, rows = 0;
};

std::optional<Span> SpanOf(const Trace& trace, int step) {
  for (const TraceStep& known : trace.header.steps) {
    if (known.step == step) return Span{known.start, known.count};
  }
  return std::nullopt;
}

struct StepPair {
  int reference = 0, subject = 0;
  StepRows reference_rows, subject_rows;
};

Entries EntriesOf(const Trace& trace, int step) {
  Entries entries;
  for (const TraceEntry& entry : trace.entries) {
    if (entry.step == step) entries.push_back(&entry);
  }
  return entries;
}

// Each step of the subject with the reference's that shares most positions with it; by number where a header is silent.
// From the first differing token on, both ran other texts, and equal values would be chance: such steps are left out.
std::vector<StepPair> PairSteps(const Trace& reference, const Trace& subject) {
  const auto mismatch = CompareTokens(reference.header.tokens, subject.header.tokens);
  std::vector<StepPair> pairs;
  for (const int step : subject.Steps()) {
    const auto theirs = SpanOf(subject, step);
    std::optional<StepPair> best;
    for (const int other : reference.Steps()) {
      const auto ours = SpanOf(reference, other);
      StepPair pair{other, step, {}, {}};
      if (ours && theirs) {
        const std::int64_t begin = std::max(ours->start, theirs->start);
        const std::int64_t end = std::min(ours->start + ours->rows, theirs->start + theirs->rows);
        if (begin >= end || (mismatch && end > mismatch->position)) continue;
        const std::int64_t rows = end - begin;
        pair.reference_rows = {ours->rows, begin - ours->start, rows, ours->start + ours->rows};
        pair.subject_rows = {theirs->rows, begin - theirs->start, rows, theirs->start + theirs->rows};
      } else {
        if (other != step || mismatch) continue;
        const std::int64_t a = ours ? ours->rows : GuessTokens(EntriesOf(reference, other));
        const std::int64_t b = theirs ? theirs->rows : GuessTokens(EntriesOf(subject, step));
        const std::int64_t rows = std::min(a, b);
        pair.reference_rows = {a, a - rows, rows, ours ? ours->start + a : 0};
        pair.subject_rows = {b, b - rows, rows, theirs ? theirs->start + b : 0};
      }
      if (!best || pair.reference_rows.rows > best->reference_rows.rows) best = pair;
    }
    if (best) pairs.push_back(*best);
  }
  return pairs;
}

}  // namespace

MatchResult MatchTraces(const Trace& reference, const Trace& subject) {
  const auto our_keys = KeysOf(reference), their_keys = KeysOf(subject);
  std::set<Key> ours_done, theirs_done;
  MatchResult result;
  const auto open = [](Entries entries, const std::map<const TraceEntry*, Key>& keys, const std::set<Key>& done) {
    std::erase_if(entries, [&](const TraceEntry* entry) { return done.contains(keys.at(entry)); });
    return entries;
  };
  for (const StepPair& step : PairSteps(reference, subject)) {
    Entries ours = open(EntriesOf(reference, step.reference), our_keys, ours_done);
    Entries theirs = open(EntriesOf(subject, step.subject), their_keys, theirs_done);
    if (ours.empty() || theirs.empty()) continue;
    StepMatcher matcher(std::move(ours), std::move(theirs), step.reference_rows, step.subject_rows,
                        reference.has_order && subject.has_order);
    for (TraceMatch& match : matcher.Run()) {
      ours_done.insert(our_keys.at(match.reference));
      theirs_done.insert(their_keys.at(match.subject));
      result.pairs.push_back(std::move(match));
    }
  }
  const auto rest = [](const Trace& trace, const std::map<const TraceEntry*, Key>& keys, std::set<Key>& done) {
    Entries entries;
    for (const TraceEntry& entry : trace.entries) {
      if (done.insert(keys.at(&entry)).second) entries.push_back(&entry);
    }
    return entries;
  };
  result.reference_only = rest(reference, our_keys, ours_done);
  result.subject_only = rest(subject, their_keys, theirs_done);
  return result;
}

}  // namespace paritrace
