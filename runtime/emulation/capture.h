// Streams, events and graphs. A capture begins in one stream; others become part of it by waiting for its events, and have to
// be joined again: the work that the first stream comes behind at the end must be all there is. Which work comes behind which
// is known by counting: every stream of a capture knows how much of each of them it comes behind.
#pragma once
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "host_api.h"

namespace tsr::emulation {

using Work = std::function<void()>;

/// What was put on the streams of a capture, in that order; lane 0 is the stream in which it began.
struct Step {
  enum Kind { work, record, wait } kind;
  int lane, event;
  Work run;
};
struct Graph {
  std::vector<Step> steps;
  std::vector<int> recorded_by;  // by event: the lane
  size_t lanes = 1;
  int uses = 1;  // the graph itself and its executables
};

struct Stream;

struct Capture {
  int number;  // counts all captures of the process
  Graph* graph;
  std::vector<Stream*> lanes;
  std::vector<std::vector<size_t>> behind;  // by lane: how much work of each lane it comes behind, its own included

  int lane(Stream* stream) {
    const auto at = std::find(lanes.begin(), lanes.end(), stream);
    if (at != lanes.end()) return int(at - lanes.begin());
    lanes.push_back(stream), behind.emplace_back();
    graph->lanes = lanes.size();
    for (std::vector<size_t>& row : behind) row.resize(lanes.size());
    return int(lanes.size()) - 1;
  }
  void add(Stream* stream, Work work) {
    const int here = lane(stream);
    ++behind[size_t(here)][size_t(here)];
    graph->steps.push_back({Step::work, here, -1, std::move(work)});
  }
  /// Whether the first stream comes behind all work of the others.
  bool joined() const {
    for (size_t i = 1; i < lanes.size(); ++i)
      if (behind[0][i] < behind[i][i]) return false;
    return true;
  }
};

struct Stream {
  std::deque<Work> works;
  std::shared_ptr<Capture> capture;
};
struct Event {
  Stream* stream = nullptr;
  bool recorded = false, done = true;
  double time = 0;
  int capture = 0, number = -1;  // of the capture that recorded it last (0: none did), and of the event there
  std::vector<size_t> behind;
};

/// Notes where a stream of a capture is.
inline void record(Stream* stream, Event* event) {
  Capture& capture = *stream->capture;
  const int here = capture.lane(stream);
  event->capture = capture.number, event->number = int(capture.graph->recorded_by.size()), event->behind = capture.behind[size_t(here)];
  capture.graph->recorded_by.push_back(here);
  capture.graph->steps.push_back({Step::record, here, event->number, nullptr});
}
/// Lets a stream of a capture come behind an event of it.
inline void await(Stream* stream, const Event& event) {
  Capture& capture = *stream->capture;
  const int here = capture.lane(stream);
  std::vector<size_t>& mine = capture.behind[size_t(here)];
  for (size_t i = 0; i < event.behind.size(); ++i) mine[i] = std::max(mine[i], event.behind[i]);
  capture.graph->steps.push_back({Step::wait, here, event.number, nullptr});
}

/// A graph on its way: streams of its own for all lanes but the first, and which events have been passed.
struct Run {
  explicit Run(const Graph& graph) : lanes(graph.lanes), passed(new bool[graph.recorded_by.size() + 1]()) {}
  std::vector<Stream> lanes;
  std::unique_ptr<bool[]> passed;
};

}  // namespace tsr::emulation
