// Loops on our own threads and on somebody else's: every chunk once, and what a chunk throws reaches the caller.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/openmp_team.h"
#include "core/team.h"

namespace paritrace {
namespace {

std::atomic<int> team_calls{0};

// As an OpenMP library runs a loop, with threads that are started for it.
void ThreeThreads(void (*work)(void*), void* argument) {
  ++team_calls;
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i) others.emplace_back(work, argument);
  work(argument);
  for (std::thread& thread : others) thread.join();
}

void ExpectEachOnce(std::int64_t count, std::int64_t grain) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
  ParallelFor(count, grain, [&](std::int64_t begin, std::int64_t end) {
    EXPECT_EQ(begin % grain, 0);
    EXPECT_EQ(end, std::min(count, begin + grain));
    for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  for (const auto& times : seen) EXPECT_EQ(times, 1);
}

TEST(Parallel, EveryChunkOnce) {
  for (const std::int64_t count : {0, 1, 7, 1000}) {
    for (const std::int64_t grain : {1, 3, 2000}) ExpectEachOnce(count, grain);
  }
}

TEST(Parallel, OnATeamEveryChunkOnceAndOnlyWhileItIsAsked) {
  if (ThreadCount() == 1) GTEST_SKIP() << "one thread: loops run in place";
  const Team team = ThreeThreads;
  const int before = team_calls;
  {
    const OnTeam on_team(&team);
    ExpectEachOnce(1000, 3);
    EXPECT_EQ(team_calls, before + 1);
    {
      const OnTeam not_here(nullptr);
      ExpectEachOnce(1000, 3);
    }
    EXPECT_EQ(team_calls, before + 1);
    std::thread([] { ExpectEachOnce(1000, 3); }).join();  // the team is this thread's alone
    EXPECT_EQ(team_calls, before + 1);
  }
  ExpectEachOnce(1000, 3);
  EXPECT_EQ(team_calls, before + 1);
}

TEST(Parallel, WhatAChunkThrowsReachesTheCallerFromATeamToo) {
  const Team team = ThreeThreads;
  for (const Team* threads : {static_cast<const Team*>(nullptr), &team}) {
    const OnTeam on_team(threads);
    EXPECT_THROW(ParallelFor(100, 1,
                             [](std::int64_t begin, std::int64_t) {
                               if (begin == 50) throw std::runtime_error("fifty");
                             }),
                 std::runtime_error);
  }
}

TEST(OpenMpTeam, IsEmptyWhereTheLibraryIsNotLoaded) {
  EXPECT_FALSE(OpenMpTeam("/nowhere/libgomp.so.1", 2));
  EXPECT_FALSE(OpenMpTeam("libm.so.6", 2)) << "loaded, and no OpenMP";
  const Team none;
  const OnTeam on_team(&none);
  ExpectEachOnce(100, 1);
}

}  // namespace
}  // namespace paritrace
