"""What a sweep shows at its end: the best points, failures, and how to resume it; and the picture."""

from rich.console import Console

from foretrain.progress import print_line
from foretrain.scaling.records import RESULTS_FILE, TRIALS
from foretrain.scaling.sweep import plot, summary
from foretrain.scaling.sweep.progress import best_table
from foretrain.scaling.sweep.run import Sweep
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED


def print_end(sweep: Sweep, status: int, console: Console) -> None:
    """Print what the sweep has found, what failed, and how to continue; draw the picture."""
    table = best_table(sweep.trials, sweep.outcomes)
    if table.row_count:
        console.print(table)
        console.print("Losses are means over seeds, ± half the difference of the best and the worst seed.", style="dim")
    lines = [f"{sweep.out / RESULTS_FILE}: {len(sweep.outcomes)} of {sweep.plan.num_trials} trials"]
    if plot.draw(summary.points(sweep.trials, sweep.outcomes), sweep.out / plot.PLOT_FILE):
        lines.append(f"{sweep.out / plot.PLOT_FILE}: their losses")
    if sweep.num_others:
        lines.append(f"{sweep.num_others} trials of other sweeps stay in {sweep.out / TRIALS}")
    if sweep.failures:
        lines.append(f"{len(sweep.failures)} trials FAILED: {', '.join(trial.name for trial in sweep.failures)}")
    if status not in (EXIT_DONE, EXIT_FAILED):
        after = (
            "the trials continue, and the same command joins them"
            if sweep.outlives_stop
            else "the same command resumes"
        )
        lines.append(f"stopped: {after}")
    elif sweep.failures:
        lines.append("the same command tries them again")
    for line in lines:
        print_line(line, console=console)
