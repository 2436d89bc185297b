// The token: in this tab, or on this device if the person asked for that.

const KEY = "pilothouse.token";
let memory = null;

function stores() {
  try {
    return [sessionStorage, localStorage];
  } catch {
    return [];
  }
}

export function token() {
  for (const store of stores()) {
    const found = store.getItem(KEY);
    if (found) return found;
  }
  return memory;
}

export function keep(value, remember) {
  forget();
  memory = value;
  const [tab, device] = stores();
  (remember ? device : tab)?.setItem(KEY, value);
}

export function forget() {
  memory = null;
  for (const store of stores()) store.removeItem(KEY);
}

/** The token of a link such as `/console/#token=...`, taken out of the address bar and the history. */
export function takeTokenFromAddress() {
  if (!location.hash.startsWith("#token=")) return null;
  const found = location.hash.slice("#token=".length);
  history.replaceState(null, "", `${location.pathname}#/`);
  try {
    return decodeURIComponent(found).trim() || null;
  } catch {
    return found.trim();
  }
}
