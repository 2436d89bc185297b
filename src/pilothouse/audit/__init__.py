"""The audit log: who did what to which thing, from where, and with what outcome."""

from pilothouse.audit.record import Action, AuditRecord, Outcome
from pilothouse.audit.service import Audit

__all__ = ["Action", "Audit", "AuditRecord", "Outcome"]
