# TurnEvents, one JSON object a line, for people: one line each.
# Run with -r and --arg dim, --arg reset (terminal codes, or empty).

def line: gsub("\\s+"; " ") | sub(" $"; "") | if length > 100 then .[:99] + "…" else . end;
def column($width): . + " " * ([$width - length, 0] | max);

def told:
  if .type == "message_start" then "begins in \(.workspace)" + (if .attempt > 1 then ", attempt \(.attempt)" else "" end)
  elif .type == "text_delta" or .type == "thinking_delta" then .text
  elif .type == "tool_use" then "\(.name): \(.input.command // (.input | tojson))"
  elif .type == "tool_result" then
    (if .content.exit_code != null then "exit \(.content.exit_code): " else "" end)
    + (.content.aggregated_output // (.content | tojson))
  elif .type == "plan" then [.items[] | (if .completed then "[x] " else "[ ] " end) + .text] | join("  ")
  elif .type == "usage" then "\(.usage.input_tokens) tokens in, \(.usage.output_tokens) out so far"
  elif .type == "notice" then "\(.code): \(.message)"
  elif .type == "error" then "\(.error.code), \(.error.reason): \(.error.message)"
  elif .type == "message_end" then
    "\(.stop_reason) after \(.duration_ms / 100 | round / 10) s"
    + (if .usage then ", \(.usage.input_tokens) tokens in, \(.usage.output_tokens) out" else "" end)
    + (if .thread_id then ", thread …\(.thread_id[-6:])" else "" end)
  else tojson end;

"  \(.turn_id | column(8)) \($dim)\(.seq | tostring | column(3))\(.type | column(15))\($reset)\(told | line)"
