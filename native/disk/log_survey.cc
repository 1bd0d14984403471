#include "disk/log_survey.h"

#include "disk/log_compaction.h"

namespace ckptfs {

std::vector<LogSurvey> surveyLogs(const Layers& layers) {
  std::vector<LogSurvey> surveys;
  std::vector<SealedIndex> indexes;
  for (const auto& log : layers.oldestFirst()) {
    indexes.push_back(log->indexNow());
    surveys.push_back({log->path(), log->bytes(), log->sealed(), 0,
                       compactBytes(indexes.back(), log->blockBytes())});
  }
  const SealedIndex merged = SealedIndex::merge(indexes);
  for (const IndexEntry& entry : merged.entries())
    surveys[SealedIndex::logOf(entry)].liveBytes += layers.newest()->blockBytes();
  return surveys;
}

}  // namespace ckptfs
