"""`manage.py preflight --data support:2 --base smollm2-135m-instruct`"""

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from datasets_app.suggestions import in_order
from project.jobs.following import follow
from project.jobs.models import JobState
from project.kernel.commands import TuneloopCommand
from training import suggestions
from training.actions import preflights
from training.models import Preflight
from training.planning import find_data, find_version, found_at
from training.queries import preflights_with_all


class Command(TuneloopCommand):
    help = "Show what a base model would learn from a data set, without training. Without a worker it runs here."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data", required=True, metavar="REF", help="an id, name or name:3")
        parser.add_argument("--base", required=True, metavar="REF", help="an id, name, name@stage or name:3")
        parser.add_argument(
            "--max-seq-length",
            type=int,
            default=preflights.DEFAULT_LENGTH,
            help="tokens of a row that training keeps (default: %(default)s)",
        )

    def run(self, **options: Any) -> None:
        base = found_at("base", lambda: find_version(options["base"], workspace=self.workspace))
        data = found_at("data", lambda: find_data(options["data"], workspace=self.workspace))
        found = preflights.launch(base, data, max_seq_length=options["max_seq_length"], by=self.actor)
        job = follow(found.job, by=self.actor, to=sys.stderr, quiet=options["json"])
        if job.state != JobState.SUCCEEDED:
            raise CommandError(f"The preflight {job.state}: {job.failure_message} {job.failure_hint}".strip())
        found = preflights_with_all().get(pk=found.pk)
        result = found.result
        lines = [
            str(found),
            f"  {_learned(found)}{result['lost_tokens']:,} are cut",
            *(f"  {finding['rows']:,} rows: {finding['words']}" for finding in found.findings),
        ]
        if found.length_that_keeps_all:
            lines.append(f"  At {found.length_that_keeps_all:,} tokens nothing would be cut.")
        facts = {"preflight": found.pk, "job": job.pk, "base": found.base_version.reference, "data": str(data)}
        lines += [f"  Suggestion: {one.title}. {one.effect}" for one in in_order(suggestions.of(found))]
        self.out(
            {**facts, "learned_share": found.learned_share, "lost_rows": found.lost_rows, **result}, "\n".join(lines)
        )


def _learned(found: Preflight) -> str:
    """'25.0% of 1,200 tokens are learned; '; without a mask how many there are."""
    if found.learned_share is None:
        return f"{found.result['tokens']:,} tokens, at most {found.result['percentiles']['100']:,} a row; "
    return f"{found.learned_share:.1%} of {found.result['kept']:,} tokens are learned; "
