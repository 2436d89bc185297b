// Numbers and times as people read them.

export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 60_000) return `${Math.round(ms / 1000)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A decimal string of dollars; null where the price is not known. */
export function cost(usd) {
  if (usd === null || usd === undefined) return null;
  const value = Number(usd);
  if (value === 0) return "$0";
  if (value < 0.000001) return "< $0.000001";
  return `$${value >= 1 ? value.toFixed(2) : String(Number(value.toFixed(6))).replace(/(\.\d)$/, "$10")}`;
}

export function count(number) {
  return number === null || number === undefined ? "" : number.toLocaleString("en");
}

export function bytes(size) {
  if (size < 1024) return `${size} B`;
  return size < 1_048_576 ? `${Math.round(size / 1024)} KB` : `${(size / 1_048_576).toFixed(1)} MB`;
}

const SAME_YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const OTHER_YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const EXACT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** "just now", "5 min ago", "14:02", "Yesterday 14:02", "3 Nov 14:02". */
export function when(iso) {
  if (!iso) return "";
  const then = new Date(iso);
  const now = new Date();
  const ago = now - then;
  if (ago < 60_000) return "just now";
  if (ago < 3_600_000) return `${Math.floor(ago / 60_000)} min ago`;
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(then).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days === 0) return CLOCK.format(then);
  if (days === 1) return `Yesterday ${CLOCK.format(then)}`;
  return `${(then.getFullYear() === now.getFullYear() ? SAME_YEAR : OTHER_YEAR).format(then)} ${CLOCK.format(then)}`;
}

export function exact(iso) {
  return iso ? EXACT.format(new Date(iso)) : "";
}

/** Pretty JSON where it is JSON, the text where it is not. */
export function pretty(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try {
    const parsed = JSON.parse(value);
    return typeof parsed === "object" && parsed !== null ? JSON.stringify(parsed, null, 2) : value;
  } catch {
    return value;
  }
}

/** One line of a tool's arguments: `order_id: 1042, full: true`. */
export function brief(value) {
  let given = value;
  if (typeof given === "string") {
    try {
      given = JSON.parse(given);
    } catch {
      return given;
    }
  }
  if (typeof given !== "object" || given === null) return given === undefined || given === null ? "" : String(given);
  const parts = Object.entries(given).map(([key, item]) => `${key}: ${typeof item === "object" ? JSON.stringify(item) : item}`);
  return parts.join(", ").slice(0, 120);
}
