-- pbsdock hook: slurm/job_submit.lua. For sites that want a wrong #DOCKER line to be told by sbatch itself: link or copy it to
-- the directory of slurm.conf on slurmctld's host, with JobSubmitPlugins=lua, or call pbsdock_check from the site's own.
-- It needs pbsdock's command on that host (PBSDOCK below) and nothing else of it. Scripts without the word cost a search; others
-- an interpreter of some 0.1 s, during which the controller takes no other submission. What cannot be asked is let pass: the
-- job's run hook tells the same later.
local PBSDOCK = "@PREFIX@/bin/pbsdock"

function pbsdock_check(script)
  if script == nil or not ("\n" .. script):lower():find("\n#docker", 1, true) then
    return nil
  end
  local name = os.tmpname() -- made by the C library, of mode 0600
  local file = io.open(name, "wb")
  if file == nil then
    return nil
  end
  file:write(script)
  file:close()
  local said = io.popen(PBSDOCK .. " check '" .. name .. "' 2>&1 >/dev/null; echo $?")
  local text = said:read("*a")
  said:close()
  os.remove(name)
  local told, code = text:match("^(.*)\n?(%d+)\n$")
  if code ~= "2" then -- 0: well; 1: it cannot be read; 126, 127: there is no such command here
    return nil
  end
  return (told:gsub(name:gsub("%p", "%%%0"), "script"):gsub("%s+$", ""))
end

function slurm_job_submit(job_desc, part_list, submit_uid)
  local wrong = pbsdock_check(job_desc.script)
  if wrong ~= nil then
    slurm.log_user("pbsdock: " .. wrong)
    return slurm.ERROR
  end
  return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end

return slurm.SUCCESS
