// submit(), score_batch(), close(): what overlaps, in which order answers come, and every end.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "agp_edge/detector.hpp"
#include "agp_edge/error.hpp"
#include "check.hpp"
#include "gated_engine.hpp"

using namespace agp_edge;
using gated::Gate;
using gated::Grey;
using gated::score_of;
using std::chrono::milliseconds;

namespace {

constexpr float kRounding = 1e-3F;

Manifest manifest() { return Manifest::parse(models::manifest().dump(), "test"); }

DetectorOptions in_flight(int frames) {
  DetectorOptions options;
  options.in_flight = frames;
  return options;
}

// A detector over a gate of its own; frames() gives greys 11, 12, ...
struct Line {
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::vector<Grey> greys;
  Detector detector;

  explicit Line(int frames, bool has_clones = true, gated::Engine::During during = nullptr)
      : Line(in_flight(frames), has_clones, std::move(during)) {}
  Line(const DetectorOptions& options, bool has_clones, gated::Engine::During during = nullptr)
      : detector(manifest(), std::make_shared<gated::Engine>(gate, has_clones, std::move(during)),
                 options) {
    for (int value = 0; value < 64; ++value) greys.emplace_back(value);
  }
  ~Line() { gate->open(); }

  Frame frame(int value) const { return greys[static_cast<std::size_t>(value)].frame(); }
};

}  // namespace

TEST(a_future_gives_what_score_gives) {
  Line line(3);
  const Result scored = line.detector.score(line.frame(50));
  const Result submitted = line.detector.submit(line.frame(50)).get();
  CHECK_NEAR(scored.score, score_of(50), kRounding);
  CHECK(scored.score == submitted.score && scored.anomaly_map == submitted.anomaly_map);
  CHECK(submitted.is_anomalous == scored.is_anomalous && submitted.threshold == scored.threshold);
  const Latency& latency = submitted.latency;
  CHECK(latency.wait_ms >= 0);
  CHECK(latency.total_ms + 1e-3 >=
        latency.wait_ms + latency.preprocess_ms + latency.execute_ms + latency.postprocess_ms);
}

TEST(clones_run_at_the_same_time_and_one_engine_in_turns) {
  for (const bool has_clones : {true, false}) {
    Line line(3, has_clones);
    line.gate->shut();
    std::vector<std::future<Result>> futures;
    for (int value = 11; value < 14; ++value) {
      futures.push_back(line.detector.submit(line.frame(value)));
    }
    if (has_clones) line.gate->wait_until_entered(3);
    line.gate->open();
    for (int i = 0; i < 3; ++i) {
      CHECK_NEAR(futures[static_cast<std::size_t>(i)].get().score, score_of(11 + i), kRounding);
    }
    CHECK(line.gate->most_at_once() == (has_clones ? 3 : 1));
  }
}

TEST(no_more_in_flight_than_asked_for) {
  Line line(2);
  line.gate->shut();
  auto first = line.detector.submit(line.frame(11));
  auto second = line.detector.submit(line.frame(12), milliseconds(0));
  CHECK_THROWS(line.detector.submit(line.frame(13), milliseconds(0)), BusyError,
               "has 2 frames in flight, as many as it may have, and none was answered within 0 ms");
  CHECK_THROWS(line.detector.submit(line.frame(13), milliseconds(7)), BusyError, "within 7 ms");
  std::thread opener([&] {
    std::this_thread::sleep_for(milliseconds(20));
    line.gate->open();
  });
  auto third = line.detector.submit(line.frame(13));  // waits for room
  CHECK_NEAR(third.get().score, score_of(13), kRounding);
  opener.join();
  CHECK_NEAR(first.get().score + second.get().score, score_of(11) + score_of(12), kRounding);
  // Room is there as soon as an answer is.
  for (int i = 0; i < 50; ++i) {
    auto one = line.detector.submit(line.frame(20), milliseconds(0));
    auto two = line.detector.submit(line.frame(21), milliseconds(0));
    two.get();
    one.get();
  }
}

// The first frame takes longest; calls come in the order of submit(), one at a time.
TEST(answers_come_in_the_order_of_submission) {
  Line line(4, true, [](float value) {
    if (static_cast<int>(2 * value + 10.5F) % 4 == 0) std::this_thread::sleep_for(milliseconds(5));
  });
  std::vector<float> scores;
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  for (int value = 12; value < 52; ++value) {
    line.detector.submit(line.frame(value), [&](Answer&& answer) {
      overlapped = overlapped || ++inside > 1;
      scores.push_back(answer.result.score);
      --inside;
    });
  }
  line.detector.close();
  CHECK(scores.size() == 40 && !overlapped);
  for (int i = 0; i < static_cast<int>(scores.size()); ++i) {
    CHECK_NEAR(scores[static_cast<std::size_t>(i)], score_of(12 + i), kRounding);
  }
}

TEST(errors_arrive_through_the_future_and_leave_the_rest_alone) {
  Line line(2, true, [](float value) {
    if (value > score_of(30)) throw DeviceError("the accelerator is on fire");
  });
  auto good = line.detector.submit(line.frame(20));
  auto bad = line.detector.submit(line.frame(40));
  auto after = line.detector.submit(line.frame(21));
  CHECK_NEAR(good.get().score, score_of(20), kRounding);
  CHECK_THROWS(bad.get(), DeviceError, "on fire");
  CHECK_NEAR(after.get().score, score_of(21), kRounding);
  // A frame that cannot be one is refused at once; one that does not fit arrives late.
  CHECK_THROWS(line.detector.submit(Frame{}), FrameError, "");
  line.detector.submit(line.frame(20), [](Answer&&) { throw std::runtime_error("not ours"); });
  CHECK_NEAR(line.detector.submit(line.frame(22)).get().score, score_of(22), kRounding);
}

TEST(a_batch_keeps_its_order) {
  Line line(3);
  std::vector<Frame> frames;
  for (int value = 10; value < 60; ++value) frames.push_back(line.frame(value));
  const std::vector<Result> results = line.detector.score_batch(frames);
  CHECK(results.size() == 50);
  for (int i = 0; i < 50; ++i) {
    CHECK_NEAR(results[static_cast<std::size_t>(i)].score, score_of(10 + i), kRounding);
  }
  CHECK(line.gate->most_at_once() <= 3);
  CHECK(line.detector.score_batch({}).empty());
}

TEST(a_batch_names_the_frame_that_failed) {
  Line line(2, true, [](float value) {
    if (value == score_of(15)) throw ModelError("nonsense");
  });
  std::vector<Frame> frames;
  for (int value = 12; value < 60; ++value) frames.push_back(line.frame(value));
  CHECK_THROWS(line.detector.score_batch(frames), ModelError, "frame 3 of the batch: nonsense");
  CHECK(line.gate->entered() < 12);  // the rest is not begun
  frames[1].height = 0;
  CHECK_THROWS(line.detector.score_batch(frames), FrameError, "frame 1 of the batch: ");
  frames.erase(frames.begin() + 1);
  frames.resize(2);
  CHECK(line.detector.score_batch(frames).size() == 2);
}

TEST(closing_drains_or_cancels) {
  for (const bool drain : {true, false}) {
    Line line(4, false);  // one engine in turns, so that frames wait for it
    line.gate->shut();
    std::vector<std::future<Result>> futures;
    for (int value = 11; value < 15; ++value) {
      futures.push_back(line.detector.submit(line.frame(value)));
    }
    std::atomic<bool> refused{false};
    std::thread submitter([&] {
      try {
        line.detector.submit(line.frame(20)).get();
      } catch (const Error& error) {
        refused = std::string(error.what()) == "the detector is closed: open the model again";
      }
    });
    line.gate->wait_until_entered(1);
    std::thread opener([&] {
      std::this_thread::sleep_for(milliseconds(30));
      line.gate->open();
    });
    line.detector.close(drain);
    submitter.join();
    opener.join();
    CHECK(refused);
    int scored = 0;
    int cancelled = 0;
    for (std::size_t i = 0; i < futures.size(); ++i) {
      CHECK(futures[i].wait_for(milliseconds(0)) == std::future_status::ready);
      try {
        CHECK_NEAR(futures[i].get().score, score_of(11 + static_cast<int>(i)), kRounding);
        ++scored;
      } catch (const Error& error) {
        CHECK(std::string(error.what()).find("closed before this frame's turn") !=
              std::string::npos);
        ++cancelled;
      }
    }
    CHECK(scored + cancelled == 4 && scored >= 1);
    CHECK(!drain || cancelled == 0);
    CHECK_THROWS(line.detector.submit(line.frame(11)), Error, "is closed");
    CHECK_THROWS(line.detector.score(line.frame(11)), Error, "is closed");
    line.detector.close();
  }
}

// A frame that waits behind an answer, which takes until the detector is being closed.
TEST(cancelling_answers_what_nobody_works_on) {
  Line line(1);
  std::promise<void> answering;
  std::promise<void> handed_in;
  line.detector.submit(line.frame(11), [&](Answer&& answer) {
    CHECK(!answer.error);
    answering.set_value();
    handed_in.get_future().get();
    bool is_closed = false;
    while (!is_closed) {
      try {
        line.detector.submit(line.frame(13));
      } catch (const BusyError&) {
        std::this_thread::yield();
      } catch (const Error&) {
        is_closed = true;
      }
    }
  });
  answering.get_future().get();
  auto waiting = line.detector.submit(line.frame(12), milliseconds(0));
  handed_in.set_value();
  line.detector.close(false);
  CHECK(waiting.wait_for(milliseconds(0)) == std::future_status::ready);
  CHECK_THROWS(waiting.get(), Error, "closed before this frame's turn came, and it was not scored");
  CHECK(line.gate->entered() == 1);
}

TEST(inside_an_answer) {
  auto line = std::make_unique<Line>(1);
  std::promise<void> done;
  std::string batch;
  float inner = 0;
  line->detector.submit(line->frame(11), [&](Answer&&) {
    CHECK(line->detector.is_own_thread());
    inner = line->detector.score(line->frame(12)).score;
    line->detector.submit(line->frame(13), [](Answer&&) {});  // its own place is free again
    CHECK_THROWS(line->detector.submit(line->frame(14)), BusyError, "its own threads cannot wait");
    try {
      line->detector.score_batch({line->frame(15)});
    } catch (const Error& error) {
      batch = error.what();
    }
    line->detector.close();  // returns
    done.set_value();
  });
  done.get_future().get();
  CHECK(!line->detector.is_own_thread());
  CHECK_NEAR(inner, score_of(12), kRounding);
  CHECK(batch.find("score_batch() was called by a function given to submit()") == 0);
  line.reset();
}

TEST(a_detector_may_end_inside_an_answer) {
  for (int frames : {1, 3}) {
    const auto gate = std::make_shared<Gate>();
    auto detector = std::make_unique<Detector>(
        manifest(), std::make_shared<gated::Engine>(gate, true), in_flight(frames));
    const Grey grey(11);
    std::promise<void> ended;
    gate->shut();
    detector->submit(grey.frame(), [&](Answer&&) {
      detector.reset();
      ended.set_value();
    });
    gate->open();  // submit() has returned
    ended.get_future().get();
    CHECK(detector == nullptr);
  }
}

TEST(by_default_the_first_submit_makes_the_rest) {
  Line line(0);
  CHECK_NEAR(line.detector.score(line.frame(11)).score, score_of(11), kRounding);
  line.gate->shut();
  auto one = line.detector.submit(line.frame(12));
  auto two = line.detector.submit(line.frame(13));
  line.gate->wait_until_entered(3);
  CHECK_THROWS(line.detector.submit(line.frame(14), milliseconds(0)), BusyError, "2 frames");
  line.gate->open();
  one.get();
  two.get();
  CHECK_THROWS(Line(-1), Error, "-1 frames in flight were asked for, 1 to 64 are expected");
  CHECK_THROWS(Line(65), Error, "65 frames");
}

TEST(threads_share_detectors_and_all_get_their_turn) {
  Line one(2);
  Line two(3, false);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 6; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 40; ++i) {
        Line& line = (i + thread) % 2 == 0 ? one : two;
        const int value = 11 + (i + 7 * thread) % 50;
        float score = 0;
        if (thread % 3 == 0) {
          score = line.detector.score(line.frame(value)).score;
        } else if (thread % 3 == 1) {
          score = line.detector.submit(line.frame(value)).get().score;
        } else {
          score = line.detector.score_batch({line.frame(value), line.frame(11)})[0].score;
        }
        if (std::abs(score - score_of(value)) > kRounding) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(one.gate->most_at_once() <= 2 && two.gate->most_at_once() == 1);
}

// A submitter that keeps the queue full does not starve one that comes now and then.
TEST(a_greedy_submitter_leaves_room) {
  Line line(2, false);
  std::atomic<bool> stop{false};
  std::atomic<int> greedy{0};
  std::thread other([&] {
    while (!stop) {
      line.detector.submit(line.frame(11), [&](Answer&&) { ++greedy; });
    }
  });
  while (greedy < 10) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) {
    const int before = greedy;
    line.detector.submit(line.frame(12)).get();
    line.detector.score(line.frame(13));
    // Ahead of ours: at most those in flight; in between, what our thread's waking took.
    CHECK(greedy - before < 2000);
  }
  stop = true;
  other.join();
}

TEST(a_forked_child_is_told_to_open_its_own) {
  auto line = std::make_unique<Line>(2);
  line->detector.submit(line->frame(11)).get();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a deadlock ends as a signal
    int status = 1;
    try {
      line->detector.submit(line->frame(11));
    } catch (const Error& error) {
      status =
          std::string(error.what()).find("was forked from the one") != std::string::npos ? 0 : 2;
    }
    line.reset();
    _exit(status);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK_NEAR(line->detector.submit(line->frame(12)).get().score, score_of(12), kRounding);
}

CHECK_MAIN()
