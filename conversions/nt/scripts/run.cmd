@echo off
rem By p2v: finishes the move to this machine at its first boot, and goes.
setlocal EnableExtensions DisableDelayedExpansion
cd /d "%SystemRoot%\@NAME@"
if not exist run.cmd exit /b 1
call :main >>"%SystemRoot%\@NAME@.log" 2>&1
if not exist finished.txt exit /b 0
rem The folder goes when this file, which is in it, is not read any more.
cd /d "%SystemRoot%"
start "p2v" /b "%SystemRoot%\System32\cmd.exe" /d /c "@REMOVE@"
exit /b 0

:main
set ATTEMPT=0
if exist attempts.txt for /f "usebackq" %%N in ("attempts.txt") do set /a ATTEMPT=%%N
set /a ATTEMPT+=1
>attempts.txt echo %ATTEMPT%
echo p2v: first boot, attempt %ATTEMPT% of @ATTEMPTS@, %DATE% %TIME%
set "RETRY="
set "POWERSHELL=%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe"
set "ICACLS=%SystemRoot%\System32\icacls.exe"
if exist "%ICACLS%" "%ICACLS%" . @RIGHTS@ >nul
call :drivers
call :network
call :disks
if not defined RETRY goto :finish
if %ATTEMPT% GEQ @ATTEMPTS@ echo p2v: gave up: what failed above stays undone
if %ATTEMPT% GEQ @ATTEMPTS@ goto :finish
echo p2v: restarting to try again
"%SystemRoot%\System32\shutdown.exe" -r -f -t @RESTART@ -c "p2v finishes the move to this machine"
goto :eof

:finish
call :script
echo p2v: done
"%SystemRoot%\System32\sc.exe" delete @NAME@
for %%S in (@CONTROL_SETS@) do (
    "%SystemRoot%\System32\reg.exe" delete "HKLM\SYSTEM\%%S\Services\@NAME@" /f >nul 2>&1
)
>finished.txt echo %ATTEMPT%
goto :eof

:drivers
if exist drivers.txt goto :eof
set "FAILED="
@PACKAGES@
if not defined FAILED >drivers.txt echo done
if defined FAILED if %ATTEMPT% LSS @DRIVER_ATTEMPTS@ set RETRY=1
goto :eof

:folder
pushd "%SystemRoot%\@DRIVERS@\%~1"
for %%I in (*.inf) do call :driver "%%~fI"
popd
goto :eof

:driver
echo p2v: driver %1
@INSTALL@
echo p2v: it ended with %CODE%
if "%CODE%"=="3010" set RETRY=1
if "%CODE%"=="0" goto :eof
if "%CODE%"=="259" goto :eof
if "%CODE%"=="3010" goto :eof
set FAILED=1
goto :eof

:network
if exist network.txt goto :eof
@NETWORK@
set CODE=%ERRORLEVEL%
if not "%CODE%"=="0" set RETRY=1
if "%CODE%"=="0" >network.txt echo done
goto :eof

:disks
@DISKS@
goto :eof

:script
if not exist @SCRIPT@ goto :eof
rem Once: also if it restarts the machine.
ren @SCRIPT@ once@SUFFIX@
echo p2v: the script of the job
@RUN_SCRIPT@
echo p2v: the script ended with %ERRORLEVEL%
goto :eof
