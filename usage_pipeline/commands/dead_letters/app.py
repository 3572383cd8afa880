"""The group of commands `usage-pipeline dead-letters`."""

import typer

from usage_pipeline.commands.dead_letters.deciding import discard_dead_letters, replay_dead_letters
from usage_pipeline.commands.dead_letters.looking import export_dead_letters, list_dead_letters, show_dead_letter

dead_letters_app = typer.Typer(
    no_args_is_help=True, help="Refused input: look at it, try it again, or decide that it does not count."
)
dead_letters_app.command("list")(list_dead_letters)
dead_letters_app.command("show")(show_dead_letter)
dead_letters_app.command("replay")(replay_dead_letters)
dead_letters_app.command("discard")(discard_dead_letters)
dead_letters_app.command("export")(export_dead_letters)
