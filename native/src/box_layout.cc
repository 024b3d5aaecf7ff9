#include "box_layout.h"

#include <algorithm>

namespace stn {
namespace {

constexpr int64_t kMostEntries = INT32_MAX;

class Builder {
 public:
  Builder(const Request& request, const Geometry& geometry)
      : request_(request), geometry_(geometry) {}

  BoxLayout Build() {
    const auto ndim = static_cast<size_t>(geometry_.ndim);
    Require(request_.reach >= 0 && request_.reach <= kMostEntries, "reach must be 0 to 2^31 - 1.");
    Require(request_.run_counts.size() == ndim && request_.level_counts.size() == ndim,
            "run_counts and level_counts must have a number for each axis.");
    layout_.reach = request_.reach;
    layout_.each_point = request_.each_point != 0;
    const int64_t* run = request_.runs.begin();
    const int64_t* start = request_.starts.begin();
    double all = 1;
    for (size_t axis = 0; axis < ndim; ++axis) {
      start = TakeStarts(axis, start);
      run = TakeRuns(axis, run);
      all *= static_cast<double>(layout_.entries[axis]);
    }
    Require(run == request_.runs.end(), "There are more runs than run_counts says.");
    Require(start == request_.starts.end(), "There are more starts than level_counts says.");
    Require(all <= kMostEntries, "There are more than 2^31 - 1 box means.");
    return std::move(layout_);
  }

 private:
  const int64_t* TakeStarts(size_t axis, const int64_t* next) {
    const int64_t count = request_.level_counts.begin()[axis];
    Require(count >= 1 && request_.starts.end() - next >= count,
            "starts must have a number for each level.");
    int64_t end = 0;  // Of the levels before.
    for (int64_t level = 0; level < count; ++level, ++next) {
      Require(*next - 2 * request_.reach >= end && *next <= kMostEntries,
              "A level must begin behind the margin of the one before, up to 2^31 - 1.");
      end = *next;
      layout_.starts[axis].push_back(static_cast<int32_t>(*next));
    }
    return next;
  }

  const int64_t* TakeRuns(size_t axis, const int64_t* next) {
    // The image's pixels lie behind a margin; runs may fill any other entries.
    const int64_t first = 2 * layout_.reach, last = first + geometry_.size[axis];
    std::vector<bool> known(static_cast<size_t>(last), true);
    for (int64_t entry = 0; entry < first; ++entry) known[static_cast<size_t>(entry)] = false;
    auto is_known = [&](int64_t entry) {
      return entry >= 0 && entry < static_cast<int64_t>(known.size()) &&
             known[static_cast<size_t>(entry)];
    };
    Require(LevelOf(axis, last - 1) == 0, "The image's pixels must belong to level 0.");
    for (int64_t number = 0; number < request_.run_counts.begin()[axis]; ++number, next += 5) {
      Require(request_.runs.end() - next >= 5, "runs must have five numbers for each run.");
      const EntryRun run = {next[0], next[1], next[2], next[3], next[4]};
      for (int64_t each : {run.to, run.count}) {
        Require(each >= 0 && each <= kMostEntries, "A run must have entries 0 to 2^31 - 1.");
      }
      for (int64_t each : {run.first, run.second, run.step, -run.step}) {
        Require(each <= kMostEntries, "A run must read entries 0 to 2^31 - 1.");
      }
      const auto level = LevelOf(axis, run.to);
      for (int64_t k = 0; k < run.count; ++k) {
        const auto to = static_cast<size_t>(run.to + k);
        const int64_t a = run.first + k * run.step, b = run.second + k * run.step;
        Require(run.first < 0 || (is_known(a) && is_known(b)),
                "A run must read entries that are known before.");
        Require(LevelOf(axis, run.to + k) == level &&
                    (run.first < 0 || (LevelOf(axis, a) <= level && LevelOf(axis, b) <= level)),
                "A run must write one level, and read no higher one.");
        if (to >= known.size()) known.resize(to + 1, false);
        Require(!known[to], "A run must not write an entry twice.");
        known[to] = true;
      }
      layout_.runs[axis].push_back(run);
    }
    for (bool each : known) Require(each, "Each entry of the box means must be written.");
    layout_.entries[axis] = static_cast<int64_t>(known.size());
    const auto levels = static_cast<int64_t>(layout_.starts[axis].size());
    Require(LevelOf(axis, layout_.entries[axis] - 1) == levels - 1,
            "Each level must have entries.");
    return next;
  }

  // The level that an entry belongs to.
  int64_t LevelOf(size_t axis, int64_t entry) const {
    const std::vector<int32_t>& starts = layout_.starts[axis];
    // A level begins with its margin.
    return std::upper_bound(starts.begin() + 1, starts.end(), entry + 2 * layout_.reach) -
           starts.begin() - 1;
  }

  const Request& request_;
  const Geometry& geometry_;
  BoxLayout layout_;
};

}  // namespace

BoxLayout BoxLayoutOf(const Request& request, const Geometry& geometry) {
  return Builder(request, geometry).Build();
}

}  // namespace stn
