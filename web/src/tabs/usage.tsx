// Usage and cost of models: the question above, its answers below.

import { Changes } from "../panels/changes";
import { Controls } from "../panels/controls";
import { MainChart } from "../panels/main_chart";
import { Requests } from "../panels/requests";
import { SmallCharts } from "../panels/small_charts";
import { GroupTable } from "../panels/table";
import { Tiles } from "../panels/tiles";
import { useTotals } from "../panels/totals";

export function Usage() {
  const totals = useTotals();
  return (
    <>
      <Controls />
      <Tiles totals={totals} />
      <MainChart />
      <GroupTable totals={totals} />
      <SmallCharts />
      <Changes />
      <Requests />
    </>
  );
}
