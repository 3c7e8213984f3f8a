"""Registry, ledger, promotion: what the deploy step and the operator share. No typer, rich or kfp here."""
