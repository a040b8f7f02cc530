@echo off
rem By p2v: gives network settings back to the adapters they were for. Runs at the first boot, then goes.
setlocal EnableExtensions DisableDelayedExpansion
set INTERFACES=HKLM\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces
set RESULT=0
@CALLS@
exit /b %RESULT%

@BLOCKS@
:find
set "NAME="
set "GUID="
set TRIED=0
:again
call :look %1
if defined NAME if defined GUID goto :eof
set /a TRIED+=1
if %TRIED% GEQ @TRIES@ goto :missing
ping -n @PINGS@ 127.0.0.1 >nul
goto :again

:missing
set "NAME="
set RESULT=1
echo p2v: no adapter has the address %1
goto :eof

rem wmic ends its lines with one carriage return too many, which the inner loop takes off.
:look
for /f "tokens=1* delims==" %%A in ('wmic nicconfig where "MACAddress='%1'" get SettingID /value ^<nul') do (
    for /f "delims=" %%C in ("%%B") do set "GUID=%%C"
)
for /f "tokens=1* delims==" %%A in ('wmic nic where "MACAddress='%1'" get @NAME@ /value ^<nul') do (
    for /f "delims=" %%C in ("%%B") do set "NAME=%%C"
)
goto :eof

:forget
if /i "%GUID%"=="%~1" goto :eof
reg query "%INTERFACES%\%~1" >nul 2>&1
if errorlevel 1 goto :eof
reg add "%INTERFACES%\%~1" /v EnableDHCP /t REG_DWORD /d 1 /f
for %%V in (IPAddress SubnetMask DefaultGateway NameServer) do (
    reg delete "%INTERFACES%\%~1" /v %%V /f >nul 2>&1
)
goto :eof

:check
reg query "%INTERFACES%\%GUID%" /v %1 >check.txt 2>nul
find "%2" check.txt >nul
if not errorlevel 1 goto :eof
echo p2v: "%NAME%" did not get %2
set RESULT=1
goto :eof
