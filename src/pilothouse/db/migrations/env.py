"""Alembic's environment: runs on the connection that `pilothouse.db.migrate` hands over."""

from alembic import context

from pilothouse.db.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
