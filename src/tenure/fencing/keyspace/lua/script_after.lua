
end, rest(KEYS, 2), rest(ARGV, 5))
if not done then
  number(seq)
  error(result, 0)
end
return {1, result}
